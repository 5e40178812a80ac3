"""The ClientApp of an overlay. It is pickled to Ray's actors and loaded for each message by SuperNodes.

Light on import: what watches PyTorch is loaded with the first message that is the app's.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fl_audit.federation._flwr_private import CLIENT_FAILED

if TYPE_CHECKING:
    from fl_audit.federation.overlay.client_process import ClientProcess

HELLO = "query.fl_audit_partition"
"""Asks a node which partition it holds, in words of this file alone."""

PARTITION = "fl-audit.partition"
UNKNOWN = -1
"""A node whose config has no partition-id."""

MAX_REASON = 500
"""Characters of an error reply."""

_processes: dict[tuple[str, str], "ClientProcess"] = {}


class ClientSide(ClientApp):
    """Watches and defends the app's own ClientApp, in whatever process Flower runs it.

    Args:
        job: the job's file; clients must run where it can be read.
        folder: where the app's modules lie.
    """

    def __init__(self, *, job: str, folder: str) -> None:
        super().__init__()
        self._job, self._folder = job, folder

    def __reduce__(self) -> tuple[Any, ...]:
        return _make, (self._job, self._folder)

    def __call__(self, message: Message, context: Context) -> Message:
        """Handle one message."""
        if message.metadata.message_type == HELLO:
            record = ConfigRecord({"number": partition(context)})
            return Message(RecordDict({PARTITION: record}), reply_to=message)
        try:
            return self._process().handle(message, context)
        except Exception as error:  # as Flower's engines do, but with a reason that people can read
            reason = f"{type(error).__name__}: {error}"[:MAX_REASON]
            return Message(Error(code=CLIENT_FAILED, reason=reason), reply_to=message)

    def _process(self) -> "ClientProcess":
        place = self._job, self._folder
        if place not in _processes:
            from fl_audit.federation.overlay.client_process import ClientProcess

            if not Path(self._job).is_file():
                raise FileNotFoundError(
                    f"{self._job} cannot be read here: SuperNodes must run on the machine of fl-audit, or "
                    "share its files. Where they cannot, use --server-only"
                )
            _processes[place] = ClientProcess(Path(self._job), Path(self._folder))
        return _processes[place]


def partition(context: Context) -> int:
    """The partition that a node holds, `UNKNOWN` if its config does not say."""
    value = context.node_config.get("partition-id")
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else UNKNOWN


def _make(job: str, folder: str) -> ClientSide:
    return ClientSide(job=job, folder=folder)
