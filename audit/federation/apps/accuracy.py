"""The accuracy that an app itself reports: of its server's own evaluation, else of its clients' replies.

Nothing is measured here. Clients' metrics travel in clear; what the server's own evaluation gave stands in
the object in which Flower's strategies gather what happened, which is held on to while it lives.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from flwr.app import Message
from flwr.server.history import History
from flwr.serverapp.strategy import Result

from fl_audit.core.types import num_examples
from fl_audit.federation.apps.job import ClientAccuracy, RoundAccuracy, ServerAccuracy
from fl_audit.federation.apps.live import living
from fl_audit.strategies._content import read_scalars

_FEW = 5
"""Rounds in which the object of Flower's strategies is looked for; a loop of an app's own has none."""


class ReportedAccuracy:
    """Gathers it round by round."""

    def __init__(self) -> None:
        self._replies: dict[int, dict[int, ClientAccuracy]] = {}
        self._results: list[Result | History] = []
        self._looked = 0

    def look(self) -> None:
        """A round is running: hold on to what Flower's strategies gather."""
        if not self._results and self._looked < _FEW:
            self._looked += 1
            self._results = living(lambda kind: Result in kind.__mro__ or History in kind.__mro__)

    def replied(self, number: int, clients: Mapping[int, int], replies: Iterable[Message]) -> None:
        """Clients evaluated in round ``number``; ``clients`` are numbers by node id."""
        found = self._replies.setdefault(number, {})
        for reply in replies:
            told = _of_reply(reply) if reply.has_content() else None
            if told is not None:
                found[clients.get(reply.metadata.src_node_id, -1)] = told

    def rounds(self) -> list[RoundAccuracy]:
        """What clients told of the global model on their own test images, by round."""
        return [RoundAccuracy(round=number, clients=found) for number, found in self._replies.items()]

    def server(self) -> ServerAccuracy | None:
        """What the server's own evaluation gave; None if it did not evaluate, or gave no accuracy."""
        for result in self._results:
            told = {number: found for number, metrics in _central(result) if (found := _accuracy(metrics))}
            if told:
                key, _ = told[max(told)]
                return ServerAccuracy(
                    key=key, rounds={number: value for number, (name, value) in told.items() if name == key}
                )
        return None


def _central(result: Result | History) -> Iterable[tuple[int, Mapping[str, Any]]]:
    """The metrics of the server's own evaluation by round."""
    if isinstance(result, Result):
        return list(result.evaluate_metrics_serverapp.items())
    return _of_history(result).items()


def _of_history(history: History) -> dict[int, dict[str, Any]]:
    """The metrics of the older API's central evaluation by round."""
    found: dict[int, dict[str, Any]] = {}
    for name, entries in history.metrics_centralized.items():
        for number, value in entries:
            found.setdefault(number, {})[name] = value
    return found


def _of_reply(reply: Message) -> ClientAccuracy | None:
    scalars = read_scalars([*reply.content.metric_records.values(), *reply.content.config_records.values()])
    found = _accuracy(scalars)
    if found is None:
        return None
    counts = {"num-examples": scalars.get("num-examples", scalars.get("num_examples", ""))}  # older API
    return ClientAccuracy(key=found[0], value=found[1], examples=num_examples(counts))


def _accuracy(metrics: Mapping[str, Any]) -> tuple[str, float] | None:
    """Key and value of the metric that is called an accuracy: that of just this name, else the first."""
    called = [name for name in metrics if "acc" in name.lower()]
    names = sorted(called, key=lambda name: name.lower() != "accuracy")
    for name in names:
        value = metrics[name]
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 100:
            return name, float(value)
    return None
