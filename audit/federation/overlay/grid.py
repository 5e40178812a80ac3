"""The raw grid of an overlay's server: nodes in order, and no client that holds up a round for good."""

import time
from collections.abc import Iterable

from flwr.app import Error, Message
from flwr.serverapp import Grid

from fl_audit.federation._flwr_private import CLIENT_FAILED, set_message_id
from fl_audit.federation.apps.waiting import AppWaits, Patience, waits_in_vain
from fl_audit.strategies._proxy import GridProxy

_POLL = 0.25  # seconds


class OverlayGrid(GridProxy):
    """Gives an error reply for whoever does not answer in time, whatever way the app asks for replies.

    Flower's engines tell no client to stop: what comes later is dropped, and its process stays busy.

    Args:
        grid: Flower's.
        limit: seconds from sending a message to its reply; waiting for a free process counts.
        waiting: seconds without a message after which a server that keeps asking for nodes waits in vain.
    """

    def __init__(self, grid: Grid, *, limit: float, waiting: float) -> None:
        super().__init__(grid)
        self._limit = limit
        self._partitions: dict[int, int] = {}
        self._sent: dict[str, tuple[Message, float]] = {}
        self._given_up: set[str] = set()
        self._patience = Patience(waiting)

    def arrange(self, partitions: dict[int, int]) -> None:
        """Order nodes by ``partitions``, node id to number: Flower lists them by random numbers."""
        self._partitions = dict(partitions)

    def get_node_ids(self) -> list[int]:
        """Nodes by number, then by id.

        Raises:
            AppWaits: the server has asked all the time for long, and waits for no reply.
        """
        now = time.monotonic()
        if any(now - since <= self._limit for _, since in list(self._sent.values())):
            self._patience.worked()
        if self._patience.asked():
            raise AppWaits(waits_in_vain(str(len(list(self.grid.get_node_ids())))))
        return sorted(self.grid.get_node_ids(), key=lambda node: (self._partitions.get(node, 2**31), node))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """As Flower's grid; the time of each message starts."""
        outgoing = list(messages)
        names = list(self.grid.push_messages(outgoing))
        self._patience.worked()
        self._sent |= {
            message.metadata.message_id: (message, time.monotonic())
            for message in outgoing
            if message.metadata.message_id in names
        }
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies that have come, and an error reply once for each that is overdue."""
        wanted = [name for name in message_ids if name not in self._given_up]
        replies = list(self.grid.pull_messages(wanted)) if wanted else []
        for reply in replies:
            self._sent.pop(reply.metadata.reply_to_message_id, None)
        now = time.monotonic()
        late = [name for name in wanted if name in self._sent and now - self._sent[name][1] > self._limit]
        for name in late:
            self._given_up.add(name)
            reason = f"no answer within {self._limit:g} s (--timeout)"
            reply = Message(Error(code=CLIENT_FAILED, reason=reason), reply_to=self._sent.pop(name)[0])
            set_message_id(reply, f"late-{name}")
            replies.append(reply)
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Push, then pull until all replies are there or time is up; replies in the order of ``messages``."""
        order = self.push_messages(messages)
        end = None if timeout is None else time.monotonic() + timeout
        waiting, replies = set(order), list[Message]()
        while waiting:
            new = self.pull_messages(waiting)
            waiting -= {reply.metadata.reply_to_message_id for reply in new}
            replies += new
            if not waiting or (end is not None and time.monotonic() > end):
                break
            time.sleep(_POLL)
        rank = {name: number for number, name in enumerate(order)}
        return sorted(replies, key=lambda reply: rank[reply.metadata.reply_to_message_id])
