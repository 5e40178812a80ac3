"""What a server does with a round's mean: Flower's central differential privacy, with its defects kept away.

Flower's wrappers stay as they are; `CentralDP` is put around one of them and prepares what goes in. Known to
hold for Flower 1.41, whose wrappers leave 0-d parameters unclipped, raise on integer arrays of one dimension
and more, let integer counters count in the norm, divide by the norm of a zero update, match arrays by
position, weight clients by what they claim, and go on with noise for more clients than answered.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    Bulyan,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAvg,
    FedMedian,
    FedTrimmedAvg,
    MultiKrum,
    QFedAvg,
    Strategy,
)

from fl_audit.core.aggregates import NUM_EXAMPLES
from fl_audit.core.errors import ConfigError
from fl_audit.strategies._content import record_of

logger = logging.getLogger(__name__)

_COMPARING = (Bulyan, FedMedian, FedTrimmedAvg, MultiKrum, QFedAvg)
"""Flower's strategies that look at each client's update."""

_TINY = 1e-12
"""What a zero update is moved by, relative or absolute, since Flower divides by its norm."""


def needs_only_the_mean(strategy: Strategy, who: str) -> Strategy:
    """``strategy`` itself.

    Raises:
        ConfigError: it is one of Flower's that compare clients' updates.
    """
    if isinstance(strategy, _COMPARING):
        raise ConfigError(
            f"defense {who!r} does not go with strategy {type(strategy).__name__}: it needs each client's "
            "update, and the server has only their mean. Choose one that averages, e.g. fedavg or fedadam"
        )
    return strategy


def weighted_by(strategy: Strategy) -> str:
    """The metric by which ``strategy`` weighs the clients in its mean."""
    return strategy.weighted_by_key if isinstance(strategy, FedAvg) else NUM_EXAMPLES


def central_dp(
    strategy: Strategy,
    *,
    clips: Literal["server", "client"],
    noise_multiplier: float,
    clipping_norm: float,
    sampled: int,
    who: str,
) -> Strategy:
    """Flower's differential privacy with fixed clipping around ``strategy``, made sound.

    Args:
        strategy: one that takes FedAvg's mean: Flower's noise is for that mean and no other.
        clips: who clips, the server or (before it comes here) each client.
        noise_multiplier: standard deviation of the noise on the sum over ``clipping_norm``.
        clipping_norm: L2 norm of one client's update.
        sampled: clients that train in a round.
        who: the defense, for the error.

    Raises:
        ConfigError: the strategy does not take FedAvg's mean, or brings a loop of its own, which Flower's
            wrappers would drop.
    """
    plain = isinstance(strategy, FedAvg) and type(strategy).aggregate_train is FedAvg.aggregate_train
    if not plain or type(strategy).start is not Strategy.start:
        raise ConfigError(
            f"defense {who!r} does not go with strategy {type(strategy).__name__}: Flower calibrates the "
            "noise for the mean that FedAvg takes in Flower's own loop. Choose fedavg or fedprox, or a "
            "subclass of FedAvg that keeps aggregate_train and start"
        )
    kind = (
        DifferentialPrivacyServerSideFixedClipping
        if clips == "server"
        else DifferentialPrivacyClientSideFixedClipping
    )
    return CentralDP(kind(strategy, noise_multiplier, clipping_norm, sampled))


class CentralDP(Strategy):
    """Gives Flower's wrapper ``inner`` replies in a form that it handles soundly, and undoes it after.

    Floating-point arrays go in by the names sent and with one dimension at least, integer arrays stay as they
    were sent, every client weighs the same, and a round in which a client is missing releases nothing.
    """

    def __init__(
        self,
        inner: DifferentialPrivacyServerSideFixedClipping | DifferentialPrivacyClientSideFixedClipping,
    ) -> None:
        self.inner = inner
        self._sent = ArrayRecord()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As ``inner``; clients get the arrays as they are."""
        self._sent = arrays
        messages = self.inner.configure_train(server_round, arrays, config, grid)
        if isinstance(self.inner, DifferentialPrivacyServerSideFixedClipping):
            self.inner.current_arrays = _floats(arrays, arrays)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """As ``inner``, of prepared replies; nothing is released where a client is missing."""
        sound = [reply for reply in replies if reply.has_content()]
        if len(sound) != self.inner.num_sampled_clients:
            logger.warning(
                "round %d: %d of %d clients sent something usable; with fewer the noise would be too small, "
                "so no new model is released",
                server_round,
                len(sound),
                self.inner.num_sampled_clients,
            )
            return None, None
        prepared = [self._prepared(reply) for reply in sound]
        arrays, metrics = self.inner.aggregate_train(server_round, prepared)
        return None if arrays is None else _restored(arrays, self._sent), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As ``inner``."""
        return self.inner.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """As ``inner``."""
        return self.inner.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        """As ``inner``."""
        self.inner.summary()

    def _prepared(self, reply: Message) -> Message:
        key, arrays = next(iter(reply.content.array_records.items()))
        (name, metrics), *_ = reply.content.metric_records.items()
        weight = {self.inner.strategy.weighted_by_key: 1.0} if isinstance(self.inner.strategy, FedAvg) else {}
        content = RecordDict(
            {
                key: _moved(_floats(arrays, self._sent), _floats(self._sent, self._sent)),
                name: MetricRecord({**metrics, **weight}),
            }
        )
        return Message(content, metadata=reply.metadata)  # type: ignore[call-overload,no-any-return]  # as Flower's transports build it


def _floats(arrays: Mapping[str, Array], sent: Mapping[str, Array]) -> ArrayRecord:
    """The floating-point arrays in the order sent, with one dimension at least."""
    values = {name: arrays[name].numpy() for name in sent if _is_float(sent[name])}
    return record_of({name: np.atleast_1d(value) for name, value in values.items()})


def _moved(arrays: ArrayRecord, sent: ArrayRecord) -> ArrayRecord:
    """``arrays``, or where they are those sent, with one entry moved by next to nothing."""
    values = {name: array.numpy() for name, array in arrays.items()}
    if any(float(np.abs(v - sent[name].numpy()).max(initial=0.0)) > _TINY for name, v in values.items()):
        return arrays
    name = next(iter(values))
    first = values[name].copy()
    first.flat[0] += max(1e-6 * abs(float(first.flat[0])), _TINY)
    return record_of({**values, name: first})


def _restored(arrays: Mapping[str, Array], sent: ArrayRecord) -> ArrayRecord:
    """All arrays in the order, shapes and dtypes sent; those that are not in ``arrays`` as they were sent."""
    restored = {name: array.numpy() for name, array in sent.items()}
    for name, array in arrays.items():
        restored[name] = array.numpy().astype(restored[name].dtype).reshape(restored[name].shape)
    return record_of(restored)


def _is_float(array: Array) -> bool:
    return np.issubdtype(np.dtype(array.dtype), np.floating)
