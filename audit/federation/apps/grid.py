"""Engine ``local`` for other people's code: each client call in a thread with a time limit, one at a time."""

import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from fl_audit.core.seeding import seeded_globals
from fl_audit.federation._flwr_private import CLIENT_FAILED, set_message_id
from fl_audit.federation.apps.waiting import WAITING, Patience
from fl_audit.federation.apps.watch import Watch, abandon, is_abandoned
from fl_audit.federation.local_engine import LocalGrid
from fl_audit.strategies._content import copy_content

_QUERY = "query.fl_audit"


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
        self._patience = Patience(min(WAITING, limit))
        self._seed, self._limit, self._watch = seed, limit, watch
        self._one_at_a_time = threading.Lock()
        self._busy: dict[int, threading.Thread] = {}
        self._calls: dict[int, int] = {}
        self._given_up: dict[str, Message] = {}

    def get_node_ids(self) -> Sequence[int]:
        """All nodes; that they were asked for is noted, see `waits`."""
        self._patience.asked()
        return super().get_node_ids()

    def waits(self) -> bool:
        """Whether the server has asked for nodes all the time for long, and no client is at work."""
        return not self._one_at_a_time.locked() and self._patience.over()

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
            self._patience.worked()
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
            self._patience.worked()

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
