"""Engine ``local``: Flower's apps, strategies and messages in one process, repeatable to the bit."""

import time
from collections.abc import Iterable, Mapping, Sequence

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run

from fl_audit.core.seeding import derive_seed
from fl_audit.federation._flwr_private import CLIENT_FAILED, empty_run, set_message_id, task_identity
from fl_audit.strategies._content import copy_content, short


def run_local(server_app: ServerApp, client_app: ClientApp, *, clients: int, seed: int) -> None:
    """Run one federation to its end. Exceptions of the server app and Ctrl-C pass through."""
    run_id = derive_seed(seed, "run")
    with task_identity(run_id):
        grid = LocalGrid(client_app, clients=clients, seed=seed, run_id=run_id)
        server_app(grid, Context(run_id, 0, {}, RecordDict(), {}))


class LocalGrid(Grid):
    """A grid whose nodes are contexts in this process; a message is handled when it is pushed.

    What crosses it is copied as a network would: client and server share array bytes, which nothing can
    change, and nothing else. A client that raises gives an error reply, as in Flower's engines.
    """

    def __init__(
        self,
        client_app: ClientApp,
        *,
        clients: int,
        seed: int,
        run_id: int,
        run_config: Mapping[str, bool | float | int | str] | None = None,
    ) -> None:
        self._app = client_app
        self._run = empty_run(run_id)
        self._contexts = {
            derive_seed(seed, "node", number): Context(
                run_id=run_id,
                node_id=derive_seed(seed, "node", number),
                node_config={"partition-id": number, "num-partitions": clients},
                state=RecordDict(),
                run_config=dict(run_config or {}),
            )
            for number in range(clients)
        }
        self._replies: dict[str, Message] = {}
        self._count = 0

    def set_run(self, run: Run) -> None:
        """Take over run information."""
        self._run = run

    @property
    def run(self) -> Run:
        """Run information."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message of this run."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Sequence[int]:
        """All nodes, by partition."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Sequence[str]:
        """Run the clients that ``messages`` go to, one after the other."""
        return [self._push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Sequence[Message]:
        """Replies to ``message_ids``, each once."""
        return [self._replies.pop(name) for name in message_ids if name in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Sequence[Message]:
        """Run the clients and give their replies, in order; after ``timeout`` no further client starts."""
        end = None if timeout is None else time.monotonic() + timeout
        names = []
        for message in messages:
            self._name(message)
            if end is None or time.monotonic() < end:
                self._handle(message)
            names.append(message.metadata.message_id)
        return self.pull_messages(names)

    def _push(self, message: Message) -> str:
        self._name(message)
        self._handle(message)
        return message.metadata.message_id

    def _name(self, message: Message) -> None:
        self._count += 1
        set_message_id(message, f"message-{self._count}")

    def _handle(self, message: Message) -> None:
        node_id = message.metadata.dst_node_id
        delivered = Message(copy_content(message.content), metadata=message.metadata)  # type: ignore[call-overload]  # as Flower's own transports build it
        try:
            if node_id not in self._contexts:
                raise LookupError(f"no node {node_id}")
            answer = self._app(delivered, self._contexts[node_id])
            if not isinstance(answer, Message):
                raise TypeError(f"the client app returned a {type(answer).__name__}, expected a Message")
        except Exception as error:
            reason = short(f"{type(error).__name__}: {error}")
            answer = Message(Error(code=CLIENT_FAILED, reason=reason), reply_to=message)
        content = copy_content(answer.content) if answer.has_content() else answer.error
        reply = Message(content, reply_to=message)  # whatever a client says it replies to
        set_message_id(reply, f"reply-{self._count}")
        self._replies[message.metadata.message_id] = reply
