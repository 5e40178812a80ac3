"""Engine ``ray``: Flower's own simulation engine, on this machine or a Ray cluster."""

import logging
import threading
from collections.abc import Iterable
from typing import Any

from flwr.app import Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fl_audit.core.errors import FederationError
from fl_audit.federation._flwr_private import run_simulation
from fl_audit.strategies._proxy import GridProxy

_POLL = 0.05  # seconds
_PATIENCE = 30.0  # seconds for Ray to stop after Ctrl-C


def run_ray(
    server_app: ServerApp,
    client_app: ClientApp,
    *,
    clients: int,
    cpus: float,
    gpus: float,
    address: str | None,
    stop: threading.Event,
) -> None:
    """Run one federation on Ray. Exceptions of the server app pass through.

    Ctrl-C sets ``stop``, on which the server app's grid (`StoppableGrid`) gives up; Flower's engine cannot be
    interrupted from its own main thread, where it waits for workers that wait for the server.
    """
    failures: list[BaseException] = []
    done = threading.Event()  # Thread.join, once interrupted, takes a living thread for a stopped one

    def work() -> None:
        try:
            run_simulation(
                server_app,
                client_app,
                clients=clients,
                backend={
                    "init_args": {
                        "address": address or "local",
                        "include_dashboard": False,
                        "logging_level": logging.ERROR,
                        "log_to_driver": False,
                    },
                    "client_resources": {"num_cpus": _whole(cpus), "num_gpus": _whole(gpus)},
                },
            )
        except BaseException as error:  # carried over to the calling thread
            failures.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=work, name="fl-audit-ray", daemon=True)
    thread.start()
    try:
        while not done.wait(_POLL):
            pass
    except BaseException:
        stop.set()
        done.wait(_PATIENCE)
        raise
    if failures:
        raise _mended(failures[0])


class StoppableGrid(GridProxy):
    """A grid whose waiting ends when ``stop`` is set, and whose orders are those of the engine ``local``.

    Flower's engine lists nodes by random numbers and replies as they come; here nodes come by partition, once
    `arrange` said which, and replies in the order of their messages, so that sums do not depend on timing.
    """

    def __init__(self, grid: Grid, stop: threading.Event) -> None:
        super().__init__(grid)
        self._stop = stop
        self._partitions: dict[int, int] = {}

    def arrange(self, partitions: dict[int, int]) -> None:
        """Order nodes by ``partitions``, node id to number."""
        self._partitions = partitions

    def get_node_ids(self) -> list[int]:
        """Nodes by partition, as far as known, then by id."""
        return sorted(self.grid.get_node_ids(), key=lambda node: (self._partitions.get(node, 2**31), node))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Push, then pull until all replies are there or time is up; replies in the order of ``messages``.

        Raises:
            FederationError: the run was stopped.
        """
        outgoing = list(messages)
        order = list(self.push_messages(outgoing))
        waiting, replies = set(order), list[Message]()
        ticks = None if timeout is None else max(1, round(timeout / _POLL))
        while waiting and (ticks is None or ticks > 0):
            new = list(self.pull_messages(waiting))
            waiting -= {reply.metadata.reply_to_message_id for reply in new}
            replies += new
            if waiting and self._stop.wait(_POLL):
                raise FederationError("the run was stopped")
            ticks = None if ticks is None else ticks - 1
        rank = {name: number for number, name in enumerate(order)}
        return sorted(replies, key=lambda reply: rank[reply.metadata.reply_to_message_id])


def _whole(value: float) -> float | int:
    """Ray takes fractions below 1 and whole numbers above."""
    return int(value) if value >= 1 and value == int(value) else value


def _mended(error: BaseException) -> BaseException:
    """A failure of Ray itself, as something that a user can read; everything else as it is."""
    cause: Any = error.__cause__
    if isinstance(error, RuntimeError) and "Ending simulation" in str(error) and cause is not None:
        root = cause.__cause__ or cause
        return FederationError(
            f"Flower's simulation engine failed: {type(root).__name__}: {root}. Check client_cpus, "
            "client_gpus and ray_address, or use engine local"
        )
    return error
