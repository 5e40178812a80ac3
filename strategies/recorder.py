"""Writing each client's update to disk as it arrives, before any strategy can touch it."""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flwr.app import Array, Message, RecordDict
from torch import Tensor

from fl_audit.core.captures import write_update
from fl_audit.core.types import CaptureKey, Scalar, Update
from fl_audit.strategies._content import named_arrays, read_arrays, read_scalars, short

logger = logging.getLogger(__name__)

Keep = Callable[[int, int], bool]
_ALIASES = {"num_examples": "num-examples"}  # how Flower's older API calls it


@dataclass(frozen=True)
class Sent:
    """What went to one client: a snapshot, for the containers of a message change after it was sent."""

    node_id: int
    round: int
    arrays: Mapping[str, Array]
    record: str | None
    config: Mapping[str, Scalar]


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

    Clients are numbered by `know_clients`; those unknown to it get the next free numbers by rank of their
    node id.
    """

    def __init__(
        self,
        out: Path | str,
        *,
        defense: str = "none",
        keep: Keep | None = None,
    ) -> None:
        self.root = Path(out) / "captures"
        self.defense = defense
        self._keep = keep
        self._clients: dict[int, int] = {}
        self._lock = threading.RLock()
        self._batches = 0
        self._seen: set[CaptureKey] = set()
        self._digest: tuple[list[tuple[str, bytes]], str] | None = None

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
            self._digest = None
            guess = self._batches
        return [_sent(message, guess) for message in messages]

    def record(self, sent: Sent, reply: Message | None) -> Recorded:
        """Write one exchange. ``reply`` None means that no reply came in time."""
        with self._lock:
            self.know([sent.node_id])
            key = CaptureKey(self.defense, sent.round, self._clients[sent.node_id])
            known = self._digest_of(sent)
            update = _update(key, sent, reply)
            problem = update.problem()
            # A zero update is of no use to an attack, but it is a well-formed vote in any strategy.
            malformed = None if problem is not None and problem.startswith("the update is zero") else problem
            written = self._keep is None or self._keep(key.round, key.client)
            if written and key in self._seen and not update.received:
                written = False  # a later step of one round, e.g. of secure aggregation, without arrays
            if written:
                if key in self._seen:
                    logger.warning("%s came twice; the later one is kept", key)
                self._seen.add(key)
                self._digest = _bytes_of(sent), write_update(self.root, update, known)
            arrived = reply is not None and reply.has_content()
            return Recorded(key, sent.node_id, arrived, malformed, written)

    def _digest_of(self, sent: Sent) -> str | None:
        """The digest of a model that went to another client of this batch as well: hashing is slow."""
        if self._digest is None:
            return None
        last, mine = self._digest[0], _bytes_of(sent)
        pairs = zip(last, mine, strict=False)
        same = len(last) == len(mine) and all(a[0] == b[0] and a[1] is b[1] for a, b in pairs)
        return self._digest[1] if same else None


def _bytes_of(sent: Sent) -> list[tuple[str, bytes]]:
    return [(name, array.data) for name, array in sent.arrays.items()]


def _sent(message: Message, guess: int) -> Sent:
    arrays, record = named_arrays(message.content)
    config = read_scalars(message.content.config_records.values())
    return Sent(message.metadata.dst_node_id, _round(message, config, guess), arrays, record, config)


def _round(message: Message, config: Mapping[str, Scalar], guess: int) -> int:
    for name in ("server-round", "server_round"):
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    group = message.metadata.group_id
    return int(group) if group.isdecimal() and 0 < int(group) < 2**31 else guess


def _update(key: CaptureKey, sent: Sent, reply: Message | None) -> Update:
    model, problem = read_arrays(sent.arrays)
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
