"""Objects of an app that live at this moment, found without touching them: strategies, optimisers, mods."""

import gc
from collections.abc import Callable
from typing import Any

from flwr.server.strategy import FedAvg, Strategy


def living(wanted: Callable[[type], bool]) -> list[Any]:
    """Objects whose type ``wanted`` says yes to, oldest first; each type is asked once."""
    objects = gc.get_objects()
    kinds = {kind for kind in {type(item) for item in objects} if wanted(kind)}
    return [item for item in objects if type(item) in kinds]


def not_the_mean() -> str | None:
    """Why the next global model of the app is not the weighted mean of a round's models; None if it is.

    SecAgg+ in Flower runs with strategies of the older API alone.
    """
    kinds = {type(strategy) for strategy in living(lambda kind: Strategy in kind.__mro__)}
    others = sorted(kind.__name__ for kind in kinds if not _averages(kind))
    if others:
        return f"{', '.join(others)} does more than average"
    return None if kinds else "no strategy of Flower's older API was found"


def _averages(kind: type) -> bool:
    return FedAvg in kind.__mro__ and getattr(kind, "aggregate_fit", None) is FedAvg.aggregate_fit
