"""Finding the units of a package: a new unit is one new file, and nothing else has to name it."""

import importlib
import pkgutil
from collections.abc import Iterable


def import_modules(package: str, path: Iterable[str]) -> None:
    """Import every public module of ``package`` (its ``__name__`` and ``__path__``), so that units register.

    A private module holds no units; one that imports something slow is left to who needs it.
    """
    for module in pkgutil.iter_modules(path):
        if not module.name.startswith("_"):
            importlib.import_module(f"{package}.{module.name}")
