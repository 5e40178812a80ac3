"""Writing each client's update to disk as it arrives, before any strategy can touch it."""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from weakref import WeakValueDictionary

from flwr.app import Array, Message, RecordDict
from torch import Tensor

from fl_audit.core.aggregates import RunningMean
from fl_audit.core.captures import digest_of, write_update
from fl_audit.core.types import CaptureKey, Scalar, Update
from fl_audit.strategies._content import named_arrays, read_arrays, read_scalars, short

logger = logging.getLogger(__name__)

Keep = Callable[[int, int], bool]
_ALIASES = {"num_examples": "num-examples"}  # how Flower's older API calls it


class SentModel:
    """The arrays of a message, read and hashed once for all the clients that get the same bytes.

    Attributes:
        size: bytes of all of them; 0 without arrays.
    """

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        # Objects of its own over the same bytes: those of a message may change after it was sent.
        self._arrays = {name: Array(a.dtype, tuple(a.shape), a.stype, a.data) for name, a in arrays.items()}
        self.size = sum(len(array.data) for array in arrays.values())

    @cached_property
    def read(self) -> tuple[dict[str, Tensor], str | None]:
        """As `read_arrays`."""
        return read_arrays(self._arrays)

    @cached_property
    def digest(self) -> str:
        """Names the file of the model."""
        return digest_of(self.read[0])


@dataclass(frozen=True)
class Sent:
    """What went to one client: a snapshot, for the containers of a message change after it was sent.

    Attributes:
        key: which client, in which round.
        node_id: Flower's node id.
        model: the arrays.
        record: key of the record that they were in.
        config: scalars that travelled with them.
        kept: whether the capture of this exchange is written.
    """

    key: CaptureKey
    node_id: int
    model: SentModel
    record: str | None
    config: Mapping[str, Scalar]
    kept: bool


@dataclass(frozen=True)
class Recorded:
    """One exchange with one client.

    Attributes:
        key: which client, in which round.
        node_id: Flower's node id.
        arrived: whether a reply with content came; what a client releases, it releases even if malformed.
        malformed: why the update is of no use to a strategy (client error, wrong arrays, NaN), or None.
        written: whether a capture is on disk.
    """

    key: CaptureKey
    node_id: int
    arrived: bool
    malformed: str | None
    written: bool


class Recorder:
    """Records updates below ``out/captures/defense``; safe to use from several threads.

    Args:
        out: run folder.
        defense: folder name of the captures.
        keep: says for (round, client) whether the capture is written; None writes all of them.
        clients: most clients whose captures are written in a round: of those that the round's messages go to
            and ``keep`` lets through, the ones with the lowest numbers; where messages go out one at a time,
            as in Flower's older API, the first ones. None: all of them.
        aggregate: write the weighted mean of a round's updates in place of each (secure aggregation).
        equal_weights: whether all clients weigh the same in it; else by ``num-examples``.

    Clients are numbered by `know_clients`; those unknown to it get the next free numbers by rank of their
    node id.
    """

    def __init__(
        self,
        out: Path | str,
        *,
        defense: str = "none",
        keep: Keep | None = None,
        clients: int | None = None,
        aggregate: bool = False,
        equal_weights: bool = False,
    ) -> None:
        self.root = Path(out) / "captures"
        self.defense = defense
        self._keep = keep
        self._most = clients
        self._chosen: dict[int, set[int]] = {}
        self._aggregate = aggregate
        self._equal_weights = equal_weights
        self._mean: tuple[int, RunningMean] | None = None
        self._clients: dict[int, int] = {}
        self._lock = threading.RLock()
        self._batches = 0
        self._rounds_from_zero = False
        self._seen: set[CaptureKey] = set()
        # By the identity of the bytes, which live as long as the model does.
        self._models: WeakValueDictionary[tuple[tuple[str, str, int], ...], SentModel] = WeakValueDictionary()

    def know(self, node_ids: Iterable[int]) -> None:
        """Give every node of ``node_ids`` that has none a client number, in order of node id."""
        with self._lock:
            taken = set(self._clients.values())
            free = (number for number in range(len(taken) + 2**31) if number not in taken)
            for node_id in sorted(set(node_ids) - set(self._clients)):
                self._clients[node_id] = next(free)

    def know_clients(self, clients: Mapping[int, int]) -> None:
        """Learn client numbers by node id, before anything is recorded."""
        with self._lock:
            self._clients.update(clients)

    def snapshot(self, messages: Iterable[Message]) -> list[Sent]:
        """Snapshots of train messages that go out together; a round is guessed where none says which."""
        messages = list(messages)
        with self._lock:
            self._batches += bool(messages)
            self.know(message.metadata.dst_node_id for message in messages)
            sent = [self._sent(message, self._batches) for message in messages]
            by_number = sorted({item.key for item in sent}, key=lambda key: key.client)
            chosen = {key for key in by_number if self._choose(key)}
            return [replace(item, kept=item.key in chosen) for item in sent]

    def record(self, sent: Sent, reply: Message | None) -> Recorded:
        """Write one exchange. ``reply`` None means that no reply came in time."""
        with self._lock:
            key, written = sent.key, sent.kept
            update = _update(key, sent, reply)
            malformed = _malformed(update)
            if written and key in self._seen and not update.received:
                written = False  # a later step of one round, e.g. of secure aggregation, without arrays
            if written:
                if key in self._seen:
                    logger.warning("%s came twice; the later one is kept", key)
                self._seen.add(key)
                if not self._aggregate:
                    write_update(self.root, update, sent_digest=sent.model.digest)
            arrived = reply is not None and reply.has_content()
            return Recorded(key, sent.node_id, arrived, malformed, written)

    def record_mean(self, exchanges: Iterable[tuple[Sent, Message]]) -> None:
        """Write the mean of those updates of a round that reach the strategy, if means are to be written.

        Of a round that comes in several parts, the mean of all that came so far is written. The arrays are
        read one client at a time and not kept.
        """
        if not self._aggregate:
            return
        with self._lock:
            grown = None
            for sent, reply in exchanges:
                update = _update(sent.key, sent, reply)
                if not sent.kept or _malformed(update) is not None:
                    continue
                number = sent.key.round
                if self._mean is None or self._mean[0] != number:
                    self._mean = number, RunningMean(equal_weights=self._equal_weights)
                grown = self._mean[1]
                grown.add(update)
            if grown is not None:
                write_update(self.root, grown.update())

    def _choose(self, key: CaptureKey) -> bool:
        """Whether a capture is written; called in the order of the clients' numbers."""
        if self._keep is not None and not self._keep(key.round, key.client):
            return False
        if self._most is None:
            return True
        chosen = self._chosen.setdefault(key.round, set())
        if len(chosen) < self._most:
            chosen.add(key.client)
        return key.client in chosen

    def _sent(self, message: Message, guess: int) -> Sent:
        arrays, record = named_arrays(message.content)
        config = read_scalars(message.content.config_records.values())
        bytes_of = tuple((name, array.stype, id(array.data)) for name, array in arrays.items())
        model = self._models.get(bytes_of)
        if model is None:
            model = self._models[bytes_of] = SentModel(arrays)
        node_id = message.metadata.dst_node_id
        told = _round(message, config)
        self._rounds_from_zero = self._rounds_from_zero or told == 0
        number = guess if told is None else told + self._rounds_from_zero
        key = CaptureKey(self.defense, number, self._clients[node_id])
        return Sent(key, node_id, model, record, config, kept=False)


def _malformed(update: Update) -> str | None:
    """Why an update is of no use to a strategy. A zero one is of none to an attack, but a vote like any."""
    problem = update.problem()
    return None if problem is not None and problem.startswith("the update is zero") else problem


def _round(message: Message, config: Mapping[str, Scalar]) -> int | None:
    """What the message says, from 0 or from 1; None if it does not say."""
    for name in ("server-round", "server_round"):
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    group = message.metadata.group_id
    return int(group) if group.isdecimal() and int(group) < 2**31 else None


def _update(key: CaptureKey, sent: Sent, reply: Message | None) -> Update:
    model, problem = sent.model.read
    received: dict[str, Tensor] = {}
    metrics: dict[str, Scalar] = {}
    error = None if problem is None else f"the server sent no usable model: {problem}"
    if reply is None:
        error = "no reply within the time limit"
    elif not reply.has_content():
        error = (
            short(reply.error.reason or f"error code {reply.error.code}") if reply.has_error() else "empty"
        )
    else:
        received, unread = read_arrays(named_arrays(reply.content, sent.record)[0])
        metrics = _metrics(reply.content)
        error = error or unread
    return Update(key, sent.node_id, model, received, sent.config, metrics, error)


def _metrics(content: RecordDict) -> dict[str, Scalar]:
    scalars = read_scalars([*content.metric_records.values(), *content.config_records.values()])
    return {_ALIASES.get(name, name): value for name, value in scalars.items()}
