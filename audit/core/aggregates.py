"""Secure aggregation as the server sees it: a round's updates as one, their weighted mean.

`mean_update` makes a capture of an aggregate that is known as such, e.g. what an app of yours got out of
Flower's SecAgg+ workflow: write it with `fl_audit.core.captures.write_update`, and attack it like any other.
`RunningMean` takes the mean of updates that are at hand, one at a time.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from fl_audit.core.errors import CaptureError
from fl_audit.core.types import EVERYONE, CaptureKey, Contribution, Scalar, Update, num_examples

NUM_EXAMPLES = "num-examples"
"""The metric by which Flower's strategies weigh clients unless they are told another one."""


def mean_update(
    defense: str,
    server_round: int,
    *,
    sent: Mapping[str, Tensor],
    mean: Mapping[str, Tensor],
    clients: Mapping[int, Mapping[str, Scalar]],
    config: Mapping[str, Scalar] | None = None,
    weighted_by: str = NUM_EXAMPLES,
    equal_weights: bool = False,
) -> Update:
    """A capture of the aggregate ``mean`` of a round.

    Args:
        defense: folder name of the captures.
        server_round: server round, from 1.
        sent: the model that all of them were sent.
        mean: the weighted mean of what they sent back: arrays of ``sent``'s names and shapes, of any dtype.
        clients: by client number, what it sent in clear.
        config: scalars of the train config that travelled with the model.
        weighted_by: the metric that is a client's weight, as the strategy has it (``weighted_by_key`` of
            Flower's FedAvg).
        equal_weights: whether all weigh the same instead.

    Raises:
        ValueError: there are no clients, or one has no positive weight.
    """
    weights = {
        client: 1.0 if equal_weights else _weight(client, seen, weighted_by)
        for client, seen in clients.items()
    }
    if not weights:
        raise ValueError("an aggregate needs at least one client")
    total = sum(weights.values())
    counts = [num_examples(seen) for seen in clients.values()]
    known = [count for count in counts if count is not None]
    return Update(
        CaptureKey(defense, server_round, EVERYONE),
        node_id=-1,
        sent=sent,
        received={name: _cast(mean[name], value) for name, value in sent.items()},
        config=config or {},
        metrics={"num-examples": sum(known)} if len(known) == len(counts) else {},
        cohort=tuple(
            Contribution(client, weights[client] / total, clients[client]) for client in sorted(clients)
        ),
    )


class RunningMean:
    """The weighted mean of one round's updates, of which it keeps the sum alone.

    Args:
        weighted_by: the metric that is a client's weight, as the strategy has it.
        equal_weights: whether all clients weigh the same instead.
    """

    def __init__(self, *, weighted_by: str = NUM_EXAMPLES, equal_weights: bool = False) -> None:
        self._by, self._equal = weighted_by, equal_weights
        self._sums: dict[str, Tensor] = {}
        self._total = 0.0
        self._first: Update | None = None
        self._clients: dict[int, Mapping[str, Scalar]] = {}

    def add(self, update: Update) -> None:
        """Add one client's update, which `Update.problem` must not object to but for being zero.

        Raises:
            ValueError: the client has no weight.
            CaptureError: it was sent another model than the others.
        """
        weight = 1.0 if self._equal else _weight(update.key.client, update.metrics, self._by)
        if self._first is None:
            self._first = update
        elif not _same(self._first.sent, update.sent):
            raise CaptureError(
                f"round {update.key.round}: clients {self._first.key.client} and {update.key.client} were "
                "sent different models; under secure aggregation their updates add up to that of no model"
            )
        for name, value in update.received.items():
            part = value.double() * weight
            self._sums[name] = self._sums[name] + part if name in self._sums else part
        self._total += weight
        self._clients[update.key.client] = update.metrics

    def update(self) -> Update:
        """The mean so far as a capture, in the dtypes sent (integers rounded).

        Raises:
            ValueError: nothing was added.
        """
        if self._first is None:
            raise ValueError("an aggregate needs at least one client")
        first = self._first
        return mean_update(
            first.key.defense,
            first.key.round,
            sent=first.sent,
            mean={name: self._sums[name] / self._total for name in first.sent},
            clients=self._clients,
            config=first.config,
            weighted_by=self._by,
            equal_weights=self._equal,
        )


def _weight(client: int, metrics: Mapping[str, Scalar], by: str) -> float:
    value = metrics.get(by)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"client {client}: expected a positive {by} to weigh it by, got {value!r}")
    return float(value)


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _cast(mean: Tensor, like: Tensor) -> Tensor:
    return (mean if like.dtype.is_floating_point else mean.round()).to(like.dtype)
