"""The recording grid: a proxy for Flower's Grid that every strategy, app and deployment can run on."""

import threading
from collections.abc import Iterable, Sequence
from typing import Protocol

from flwr.app import Error, Message, MessageType
from flwr.serverapp import Grid

from fl_audit.strategies._proxy import GridProxy
from fl_audit.strategies._quarantine import misfits
from fl_audit.strategies._sent import Sent
from fl_audit.strategies.recorder import Recorded, Recorder


class Observer(Protocol):
    """Told of each batch of exchanges after it was recorded and before the strategy gets the replies."""

    def trained(self, grid: Grid, recorded: Sequence[Recorded]) -> None:
        """Train replies came; ``grid`` is the raw one, on which nothing is recorded."""

    def evaluated(self, replies: Sequence[Message]) -> None:
        """Evaluate replies came."""


class AuditGrid(GridProxy):
    """Passes everything on to another grid and records the train messages and their replies.

    Traffic passes through untouched, in the same order, as lists. Arrays are captured before a strategy sees
    them, since several of Flower's strategies consume them.

    Args:
        grid: the grid that does the work.
        recorder: where captures go.
        quarantine: withhold malformed replies (missing or extra arrays, wrong shapes, NaN, unusable metrics)
            from the strategy, which gets an error reply in their place, so that one client cannot stop a
            round. Off by default: an audit does not change what it audits.
        observer: told of every batch.
    """

    def __init__(
        self,
        grid: Grid,
        recorder: Recorder,
        *,
        quarantine: bool = False,
        observer: Observer | None = None,
    ) -> None:
        super().__init__(grid)
        self.recorder = recorder
        self._quarantine = quarantine
        self._observer = observer
        self._lock = threading.Lock()
        self._pending: dict[str, tuple[Message, Sent | None]] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push, and remember what was sent until its reply is pulled."""
        outgoing = list(messages)
        sent = self._snapshot(outgoing)
        ids = list(self.grid.push_messages(outgoing))
        self._remember(outgoing, sent)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pull, and record the replies that came."""
        replies = list(self.grid.pull_messages(list(message_ids)))
        matched = [self._take(reply) for reply in replies]
        return self._finish(matched, replies)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send, wait, record; what got no reply in time is recorded as such."""
        outgoing = list(messages)
        sent = self._snapshot(outgoing)
        replies = list(self.grid.send_and_receive(outgoing, timeout=timeout))
        self._remember(outgoing, sent)
        matched = [self._take(reply) for reply in replies]
        silent = [self._pending.pop(message.metadata.message_id, None) for message in outgoing]
        return self._finish(matched, replies, [entry for entry in silent if entry is not None])

    def _snapshot(self, outgoing: list[Message]) -> list[Sent | None]:
        self.recorder.going_out(outgoing)
        train = [message for message in outgoing if _category(message) == MessageType.TRAIN]
        if train:
            self.recorder.know(self.grid.get_node_ids())
        snapshots = iter(self.recorder.snapshot(train))
        return [next(snapshots) if _category(m) == MessageType.TRAIN else None for m in outgoing]

    def _remember(self, outgoing: list[Message], sent: list[Sent | None]) -> None:
        with self._lock:
            for message, snapshot in zip(outgoing, sent, strict=True):
                self._pending[message.metadata.message_id] = (message, snapshot)

    def _take(self, reply: Message) -> tuple[Message, Sent | None] | None:
        with self._lock:
            return self._pending.pop(reply.metadata.reply_to_message_id, None)

    def _finish(
        self,
        matched: Sequence[tuple[Message, Sent | None] | None],
        replies: list[Message],
        silent: Sequence[tuple[Message, Sent | None]] = (),
    ) -> list[Message]:
        recorded: list[Recorded] = []
        reasons: list[str | None] = []
        for entry, reply in zip(matched, replies, strict=True):
            sent = entry[1] if entry is not None else None
            if sent is not None and not self._concerns_nobody(sent):
                recorded.append(self.recorder.record(sent, reply))
                reasons.append(recorded[-1].malformed if reply.has_content() else None)
            else:
                reasons.append(None)
        lost = [sent for _, sent in silent if sent is not None and not self._concerns_nobody(sent)]
        recorded += [self.recorder.record(sent, None) for sent in lost]
        passed = self._withhold(matched, replies, reasons) if self._quarantine else replies
        self.recorder.finish(
            (entry[1], reply)
            for entry, reply in zip(matched, passed, strict=True)
            if entry is not None and entry[1] is not None and reply.has_content()
        )
        if self._observer is not None:
            if recorded:
                self._observer.trained(self.grid, recorded)
            evaluated = [r for r in replies if _category(r) == MessageType.EVALUATE]
            if evaluated:
                self._observer.evaluated(evaluated)
        return passed

    def _concerns_nobody(self, sent: Sent) -> bool:
        """Whether an exchange need not even be read: it is not written, and nobody wants to know of it."""
        return not self._quarantine and self._observer is None and not sent.kept

    def _withhold(
        self,
        matched: Sequence[tuple[Message, Sent | None] | None],
        replies: list[Message],
        reasons: list[str | None],
    ) -> list[Message]:
        sound = [reply for reply, reason in zip(replies, reasons, strict=True) if reason is None]
        odd = misfits(sound)
        passed = []
        for entry, reply, reason in zip(matched, replies, reasons, strict=True):
            why = reason or odd.get(id(reply))
            if why is None or entry is None:
                passed.append(reply)
            else:
                passed.append(Message(Error(code=0, reason=f"withheld: {why}"), reply_to=entry[0]))
        return passed


def _category(message: Message) -> str:
    return message.metadata.message_type.partition(".")[0]
