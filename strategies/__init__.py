"""Interception (`audited`, `AuditGrid`) and defenses. Interception needs Flower, so it loads lazily."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fl_audit.strategies.audited import audited
    from fl_audit.strategies.interception import AuditGrid, Observer
    from fl_audit.strategies.recorder import Recorded, Recorder

_HOMES = {
    "AuditGrid": "interception",
    "Observer": "interception",
    "Recorded": "recorder",
    "Recorder": "recorder",
    "audited": "audited",
}

__all__ = ["AuditGrid", "Observer", "Recorded", "Recorder", "audited"]


def __getattr__(name: str) -> Any:
    """Load a part that needs Flower."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    module = importlib.import_module(f"{__name__}.{_HOMES[name]}")
    value = getattr(module, name)
    globals()[name] = value  # importing a submodule of the same name would otherwise shadow it
    return value
