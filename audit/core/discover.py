"""Finding the units of a package: a new unit is one new file, and nothing else has to name it."""

import importlib
import pkgutil
from collections.abc import Iterable


def import_modules(package: str, path: Iterable[str]) -> None:
    """Import every module of ``package`` (its ``__name__`` and ``__path__``), so that units register."""
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")
