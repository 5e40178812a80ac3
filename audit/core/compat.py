"""Torch and torchvision are built as pairs; a mismatched pair fails in ways that are hard to read."""

import importlib
import importlib.metadata

from fl_audit.core.errors import AuditError


def check_torch_pair() -> None:
    """Raise an `AuditError` that says how to mend it if torchvision does not fit the torch installed."""
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        raise AuditError(mismatch(error)) from error


def mismatch(error: Exception) -> str:
    """What to tell the user when torchvision does not import beside torch."""
    found = {name: _version(name) for name in ("torch", "torchvision")}
    wanted = _required_torch()
    said = str(error).splitlines()[0] if str(error) else "no message"
    return (
        f"torchvision {found['torchvision']} does not work with torch {found['torch']} "
        f"({type(error).__name__}: {said}). They are released in pairs; this torchvision was built for "
        f"torch {wanted}. Mend it with: pip install --upgrade --force-reinstall torch torchvision"
    )


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def _required_torch() -> str:
    """The torch that torchvision's own metadata asks for, e.g. ``2.15.0``."""
    try:
        requires = importlib.metadata.requires("torchvision") or []
    except importlib.metadata.PackageNotFoundError:
        return "(unknown)"
    pins = [
        r.split(";")[0].removeprefix("torch").strip("= ()")
        for r in requires
        if r.startswith(("torch=", "torch ("))
    ]
    return pins[0] if pins else "(unknown)"
