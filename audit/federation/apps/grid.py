"""Engine ``local`` for other people's code: each client call in a thread with a time limit, one at a time."""

import functools
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.server import SimpleClientManager

from fl_audit.core.seeding import seeded_globals
from fl_audit.federation._flwr_private import CLIENT_FAILED, set_message_id
from fl_audit.federation.apps.watch import Watch, abandon, is_abandoned
from fl_audit.federation.local_engine import LocalGrid
from fl_audit.strategies._content import copy_content

PAUSE = 15.0
"""Seconds between two questions for nodes within which a server counts as asking all the time."""

_QUERY = "query.fl_audit"


class AppWaits(RuntimeError):
    """The app's server waits for nodes that do not come."""


class AppGrid(LocalGrid):
    """A `LocalGrid` on which no client can hold up the others for good.

    Legacy apps push from several threads: a lock keeps their clients apart, since PyTorch's hooks and the
    global generators are those of the whole process. Each call of the app is seeded by its node and number,
    whatever the app does to the generators, and leaves them as they were.

    Args:
        client_app: the app, wrapped.
        clients: supernodes.
        seed: run seed.
        run_id: Flower's run id.
        run_config: the app's config.
        limit: seconds that a client may take for one message.
        watch: told the labels of what is evaluated.
    """

    def __init__(
        self,
        client_app: ClientApp,
        *,
        clients: int,
        seed: int,
        run_id: int,
        run_config: Mapping[str, bool | float | int | str],
        limit: float,
        watch: Watch,
    ) -> None:
        super().__init__(client_app, clients=clients, seed=seed, run_id=run_id, run_config=run_config)
        self._server = threading.get_ident()
        self._asked = -PAUSE
        self.handled = time.monotonic()
        self._seed, self._limit, self._watch = seed, limit, watch
        self._one_at_a_time = threading.Lock()
        self._busy: dict[int, threading.Thread] = {}
        self._calls: dict[int, int] = {}
        self._given_up: dict[str, Message] = {}

    def get_node_ids(self) -> Sequence[int]:
        """All nodes; when the server asked is noted, see `waits`."""
        if (
            threading.get_ident() == self._server
        ):  # Flower's older API asks in a thread of its own all the time
            self._asked = time.monotonic()
        return super().get_node_ids()

    def waits(self, pause: float = PAUSE) -> bool:
        """Whether the server asks for nodes at least each ``pause`` seconds, and does nothing else."""
        return not self._one_at_a_time.locked() and time.monotonic() - self._asked < pause

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Sequence[Message]:
        """Run the clients one after the other, each as long as ``timeout`` and the limit allow."""
        limit = self._limit if timeout is None else min(timeout, self._limit)
        names = []
        for message in messages:
            self._name(message)
            self._timed(message, limit)
            names.append(message.metadata.message_id)
        return self.pull_messages(names)

    def pull_messages(self, message_ids: Iterable[str]) -> Sequence[Message]:
        """As the engine; what came after it was given up is not delivered again."""
        names = list(message_ids)
        for name in names:
            self._given_up.pop(name, None)
        return super().pull_messages(names)

    def _push(self, message: Message) -> str:
        self._name(message)
        self._timed(message, self._limit)
        return message.metadata.message_id

    def _timed(self, message: Message, limit: float) -> None:
        """Handle one message, or answer in the client's place that it did not."""
        ours = message.metadata.message_type.startswith(_QUERY)
        node = message.metadata.dst_node_id
        with self._one_at_a_time:
            self._asked = -PAUSE
            earlier = self._busy.get(node)
            if earlier is not None and earlier.is_alive():
                self._fail(message, "still busy with an earlier message that it never answered")
                return
            self._busy.pop(node, None)
            self._calls[node] = self._calls.get(node, 0) + (not ours)
            delivered = Message(copy_content(message.content), metadata=message.metadata)  # type: ignore[call-overload]  # as LocalGrid delivers
            done = threading.Event()

            def work() -> None:
                try:
                    with seeded_globals(self._seed, "app", node, self._calls[node]), self._watch.losses():
                        self._handle(delivered)
                finally:
                    done.set()

            # A daemon: a client that hangs must not keep the process alive.
            thread = threading.Thread(target=work, name=f"client-{node}", daemon=True)
            thread.start()
            if not done.wait(limit):
                abandon(thread)
                self._busy[node] = thread
                self._watch.training.clear()
                self._fail(message, f"no answer within {limit:g} s (--timeout)")
            self.handled = time.monotonic()

    def _handle(self, message: Message) -> None:
        super()._handle(message)
        if is_abandoned():  # answered for it already
            name = message.metadata.message_id
            self._replies.pop(name, None)
            if name in self._given_up:
                self._replies[name] = self._given_up[name]

    def _fail(self, message: Message, reason: str) -> None:
        reply = Message(Error(code=CLIENT_FAILED, reason=reason), reply_to=message)
        set_message_id(reply, f"late-{message.metadata.message_id}")
        self._replies[message.metadata.message_id] = reply
        self._given_up[message.metadata.message_id] = reply


@contextmanager
def impatient(limit: float) -> Iterator[None]:
    """Inside the block, Flower's older API raises `AppWaits` where it would wait longer for clients.

    It waits a day by default, in a way that nothing can interrupt. ``limit`` is in seconds.
    """
    original = SimpleClientManager.wait_for

    @functools.wraps(original)
    def wait_for(self: SimpleClientManager, num_clients: int, timeout: int = 86400) -> bool:
        if original(self, num_clients, min(timeout, limit)):  # type: ignore[arg-type]  # a fraction will do
            return True
        if timeout <= limit:
            return False
        raise AppWaits(waits_in_vain(str(self.num_available())))

    SimpleClientManager.wait_for = wait_for  # type: ignore[method-assign]
    try:
        yield
    finally:
        SimpleClientManager.wait_for = original  # type: ignore[method-assign]


def waits_in_vain(there: str) -> str:
    """What is said of a server that waits for more nodes than ``there`` are."""
    return (
        "the server app keeps asking for nodes and sends nothing: it seems to wait for more than the "
        f"{there} that there are (min_available_nodes, min_available_clients). Give as many as it wants: "
        "--clients N"
    )


class LoudApp(ClientApp):
    """Prints the app's own tracebacks, and turns an exit into an error of that client.

    Args:
        inner: the app.
        report: told of each failure.
    """

    def __init__(self, inner: ClientApp, report: Callable[[BaseException], None] | None = None) -> None:
        super().__init__()
        self._inner = inner
        self._report = report

    def __call__(self, message: Message, context: Context) -> Message:
        """Handle one message."""
        try:
            return self._inner(message, context)
        except SystemExit as exit_call:
            self._tell(exit_call)
            raise RuntimeError(f"the client app called sys.exit({exit_call.code!r})") from exit_call
        except Exception as error:
            self._tell(error)
            raise

    def _tell(self, error: BaseException) -> None:
        traceback.print_exception(error, file=sys.stderr)
        if self._report is not None:
            self._report(error)
