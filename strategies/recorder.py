"""Writing each client's update to disk as it arrives, before any strategy can touch it."""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from weakref import WeakValueDictionary

from flwr.app import Message, RecordDict
from torch import Tensor

from fl_audit.core.aggregates import NUM_EXAMPLES, RunningMean
from fl_audit.core.captures import write_update
from fl_audit.core.types import CaptureKey, Scalar, Update
from fl_audit.strategies._content import named_arrays, read_arrays, read_scalars, short
from fl_audit.strategies._masked_round import COLLECT, PROTOCOL, step_of
from fl_audit.strategies._secure_rounds import SecureRounds
from fl_audit.strategies._sent import Sent, SentModel
from fl_audit.strategies._writer import CaptureWriter

logger = logging.getLogger(__name__)

Keep = Callable[[int, int], bool]
_ALIASES = {"num_examples": "num-examples"}  # how Flower's older API calls it


@dataclass(frozen=True)
class Recorded:
    """One exchange with one client.

    Attributes:
        key: which client, in which round.
        node_id: Flower's node id.
        arrived: whether a reply with content came; what a client releases, it releases even if malformed.
        malformed: why the update is of no use to a strategy (client error, wrong arrays, NaN), or None.
        written: whether a capture is on disk.
        masked: whether it came masked, for secure aggregation, and is in the capture of its whole round.
    """

    key: CaptureKey
    node_id: int
    arrived: bool
    malformed: str | None
    written: bool
    masked: bool = False


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
        weighted_by: the metric that weighs them, as the strategy has it.
        equal_weights: whether all clients weigh the same in it instead.
        not_the_mean: see `SecureRounds`.

    Where a federation aggregates securely itself, by Flower's SecAgg+, a round is one capture as well: the
    mean of all its clients, whichever of them ``keep`` and ``clients`` let through; see ``secure``.

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
        weighted_by: str = NUM_EXAMPLES,
        equal_weights: bool = False,
        not_the_mean: Callable[[], str | None] | None = None,
    ) -> None:
        self.root = Path(out) / "captures"
        self.defense = defense
        self._keep = keep
        self._most = clients
        self._chosen: dict[int, set[int]] = {}
        self._aggregate = aggregate
        self._by, self._equal = weighted_by, equal_weights
        self._writer = CaptureWriter(self.root)
        self.secure = SecureRounds(self._write_mean, not_the_mean)
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
            whole = bool(chosen)  # a sum is that of all its clients or of none
            return [replace(item, kept=whole if item.step else item.key in chosen) for item in sent]

    def record(self, sent: Sent, reply: Message | None) -> Recorded:
        """Begin to write one exchange, see `finish`. ``reply`` None means that no reply came in time."""
        with self._lock:
            if sent.step is not None:
                return self._step(sent, reply)
            key, written = sent.key, sent.kept
            update = _update(key, sent, reply)
            malformed = _malformed(update)
            if written and key in self._seen and not update.received:
                written = False  # a later step of one round, without arrays
            if written and not self._fits(key, sent.model.size + _size(update)):
                written = False
            if written:
                if key in self._seen:
                    logger.warning("%s came twice; the later one is kept", key)
                    self._writer.finish()
                self._seen.add(key)
                if not self._aggregate:
                    self._writer.write(update, sent.model.digest)
            arrived = reply is not None and reply.has_content()
            return Recorded(key, sent.node_id, arrived, malformed, written)

    def going_out(self, messages: Iterable[Message]) -> None:
        """Look at all that is about to go out: a model tells the mean of the round before."""
        with self._lock:
            if self.secure.waiting:
                for message in messages:
                    self.secure.next_model(SentModel(named_arrays(message.content)[0]))

    def finish(self, exchanges: Iterable[tuple[Sent, Message]]) -> None:
        """End a batch: its captures are written when this returns, and what concerns the round as a whole.

        That is the mean of those updates of a round that reach the strategy, if means are to be written.

        Of a round that comes in several parts, the mean of all that came so far is written. The arrays are
        read one client at a time and not kept.
        """
        with self._lock:
            self._writer.finish()
            self.secure.close()
            if not self._aggregate:
                return
            grown = None
            for sent, reply in exchanges:
                update = _update(sent.key, sent, reply)
                if not sent.kept or sent.step is not None or _malformed(update) is not None:
                    continue
                number = sent.key.round
                if self._mean is None or self._mean[0] != number:
                    self._mean = number, RunningMean(weighted_by=self._by, equal_weights=self._equal)
                grown = self._mean[1]
                grown.add(update)
            if grown is not None:
                write_update(self.root, grown.update())

    def drain(self) -> None:
        """Wait until all that was written is on the disk, safe from a power cut as well."""
        self._writer.drain()

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

    def _step(self, sent: Sent, reply: Message | None) -> Recorded:
        """One exchange of SecAgg+, of which no capture is written."""
        arrived = reply is not None and reply.has_content()
        if arrived and sent.kept and reply is not None:
            self.secure.take(sent, reply, _metrics(reply.content))
        masked = arrived and sent.step is not None and sent.step["stage"] == COLLECT
        reason = None if arrived else _silent(reply)
        return Recorded(sent.key, sent.node_id, masked, reason, written=False, masked=masked and sent.kept)

    def _fits(self, key: CaptureKey, size: int) -> bool:
        """Whether there is room for a capture of so many bytes; there is."""
        del key, size
        return True

    def _write_mean(self, update: Update) -> str | None:
        """Write the capture of a round that was aggregated securely, or say why not."""
        if not self._fits(update.key, 2 * _size(update)):
            return "there was no room for the capture"
        write_update(self.root, update)
        return None

    def _sent(self, message: Message, guess: int) -> Sent:
        arrays, record = named_arrays(message.content)
        config = _clear(message.content)
        step = step_of(message.content)
        self.secure.seen = self.secure.seen or step is not None
        bytes_of = tuple((name, array.stype, id(array.data)) for name, array in arrays.items())
        model = self._models.get(bytes_of)
        if model is None:
            model = self._models[bytes_of] = SentModel(arrays)
        node_id = message.metadata.dst_node_id
        told = _round(message, config)
        self._rounds_from_zero = self._rounds_from_zero or told == 0
        number = guess if told is None else told + self._rounds_from_zero
        key = CaptureKey(self.defense, number, self._clients[node_id])
        return Sent(key, node_id, model, record, config, kept=False, step=step)


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
    if reply is None or not reply.has_content():
        error = _silent(reply)
    else:
        received, unread = read_arrays(named_arrays(reply.content, sent.record)[0])
        metrics = _metrics(reply.content)
        error = error or unread
    return Update(key, sent.node_id, model, received, sent.config, metrics, error)


def _silent(reply: Message | None) -> str:
    """Why there is nothing in a reply."""
    if reply is None:
        return "no reply within the time limit"
    return short(reply.error.reason or f"error code {reply.error.code}") if reply.has_error() else "empty"


def _size(update: Update) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in update.received.values())


def _clear(content: RecordDict, *others: Mapping[str, object]) -> dict[str, Scalar]:
    """Scalars of ``others`` and of the config records but for what a protocol says by them."""
    records = [record for name, record in content.config_records.items() if name != PROTOCOL]
    return read_scalars([*others, *records])


def _metrics(content: RecordDict) -> dict[str, Scalar]:
    scalars = _clear(content, *content.metric_records.values())
    return {_ALIASES.get(name, name): value for name, value in scalars.items()}
