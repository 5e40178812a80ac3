"""The registries of data sets and partitioners, apart from the units so that both can import them."""

import difflib
import os
from pathlib import Path

from fl_audit.core.registry import Registry, is_import_spec
from fl_audit.core.units import Dataset, Partitioner


def _fallback(spec: str) -> Dataset | None:
    """A path, or ``module:function``, where ``spec`` is no registered name."""
    # The units register themselves here, so they can only be imported once this module is complete.
    from fl_audit.data.folder import ImageFolder
    from fl_audit.data.function import DatasetFunction

    if looks_like_path(spec):
        return ImageFolder.from_path_spec(spec)
    if is_import_spec(spec):
        name = spec.partition(":")[0]
        if difflib.get_close_matches(name, datasets.names(), n=1):
            return None  # a misspelt name with a parameter: the registry's error shows the near miss
        return DatasetFunction(spec=spec)
    return None


def looks_like_path(spec: str) -> bool:
    """Whether ``spec`` means a folder or a zip: it has a separator, names a zip, or exists."""
    head = spec.split(",", 1)[0]
    separators = {"/", os.sep, os.altsep or os.sep}
    return (
        any(separator in head for separator in separators)
        or head.startswith(("~", "."))
        or ".zip" in head.lower()
        or Path(spec).is_dir()
        or Path(head).is_dir()
    )


datasets: Registry[Dataset] = Registry("dataset", fallback=_fallback)
partitioners: Registry[Partitioner] = Registry("partitioner")
