"""What a strategy does by itself to protect clients, as far as its class says: Flower's central privacy."""

from collections.abc import Iterator
from typing import Any

from fl_audit.core.recorded import OwnDefense

MOST = 8
"""Settings of one protection that are listed."""

_CENTRAL = ("DifferentialPrivacy", "DPFedAvg")
"""How Flower's wrappers for central differential privacy begin."""


def module_of(kind: type) -> str:
    """Where a type was defined; empty where it does not say, as some of C's."""
    module = kind.__dict__.get("__module__")
    return module if isinstance(module, str) else ""


def is_central(kind: type) -> bool:
    """Whether a type is one of Flower's strategies for central differential privacy."""
    return any(
        module_of(base).startswith("flwr.") and base.__name__.startswith(_CENTRAL) for base in kind.__mro__
    )


def central(strategy: Any) -> OwnDefense:
    """What such a strategy does, with its settings."""
    return OwnDefense(
        name=type(strategy).__name__,
        detail="the server adds noise to the mean: against those who see what it releases, not against "
        f"the server itself; {settings_of(strategy)}",
    )


def found_in(strategy: Any) -> list[OwnDefense]:
    """What a strategy and those that it wraps do, outermost first."""
    return [central(layer) for layer in _layers(strategy) if is_central(type(layer))]


def settings_of(holder: Any) -> str:
    """The numbers that an object was made with, e.g. ``clipping_norm = 1.0, epsilon = 5.0``."""
    numbers = {
        name: value
        for name, value in vars(holder).items()
        if not name.startswith("_") and isinstance(value, int | float) and not isinstance(value, bool)
    }
    return ", ".join(f"{name} = {value:g}" for name, value in list(numbers.items())[:MOST]) or "no settings"


def _layers(strategy: Any) -> Iterator[Any]:
    """A strategy, then the one that it wraps, and so on."""
    seen: list[Any] = []
    while strategy is not None and not any(strategy is other for other in seen):
        seen.append(strategy)
        yield strategy
        strategy = getattr(strategy, "strategy", None)
