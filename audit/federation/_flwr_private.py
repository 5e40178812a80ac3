"""The only file that touches private names of Flower; tests/federation/test_canaries.py watches each.

Known to hold for flwr 1.41. Everything else of this package uses what flwr documents.
"""

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.supercore.constant import NOOP_FEDERATION_ID
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

CLIENT_FAILED = 2
"""Flower's ErrorCode.CLIENT_APP_RAISED_EXCEPTION."""

SERVER_NODE = 1
"""Flower's SUPERLINK_NODE_ID: who messages of the server come from."""

_IDENTITY = ("_task_id", "_run_id", "_node_id")


@contextlib.contextmanager
def task_identity(run_id: int) -> Iterator[None]:
    """Make this process the server of a run: `Message` takes run and sender from there. Restored after."""
    before = [getattr(TaskIdentity, name) for name in _IDENTITY]
    TaskIdentity.task_id = 1
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = SERVER_NODE
    try:
        yield
    finally:
        for name, value in zip(_IDENTITY, before, strict=True):
            setattr(TaskIdentity, name, value)


def set_message_id(message: Message, message_id: str) -> None:
    """Give a message its id, as a SuperLink does when it takes the message."""
    message.metadata.__dict__["_message_id"] = message_id


def empty_run(run_id: int) -> Run:
    """Run information of a run that no SuperLink knows."""
    return Run.create_empty(run_id=run_id)


def simulate_folder(folder: Path, *, server: str, client: str, clients: int, backend: dict[str, Any]) -> None:
    """Flower's simulation engine on Ray, for the app in ``folder``, as ``flwr-simulation`` runs it.

    Args:
        folder: the app; its ``pyproject.toml`` holds the run config.
        server: ``module:attribute`` of its ServerApp.
        client: ``module:attribute`` of its ClientApp.
        clients: supernodes.
        backend: settings of Ray.
    """
    from flwr.common.config import get_fused_config_from_dir
    from flwr.simulation.run_simulation import _run_simulation
    from flwr.supercore.telemetry import EventType

    run_id = random.getrandbits(62)
    run = Run.create_empty(run_id=run_id)
    run.primary_task_id, run.federation_id = 1, NOOP_FEDERATION_ID
    with task_identity(run_id):
        _run_simulation(
            num_supernodes=clients,
            exit_event=EventType.PYTHON_API_RUN_SIMULATION_LEAVE,
            client_app_attr=client,
            server_app_attr=server,
            server_app_context=Context(run_id, 0, {}, RecordDict(), get_fused_config_from_dir(folder, {})),
            backend_config=backend,
            app_dir=str(folder),
            is_app=True,
            run=run,
        )


def run_simulation(
    server_app: ServerApp, client_app: ClientApp, *, clients: int, backend: dict[str, Any]
) -> None:
    """Flower's simulation engine on Ray, without the deprecation notice and telemetry of its public twin.

    Exceptions of the server app come out of here; those of clients are error replies.
    """
    from flwr.simulation.run_simulation import _run_simulation
    from flwr.supercore.telemetry import EventType

    before = [getattr(TaskIdentity, name) for name in _IDENTITY]
    try:
        _run_simulation(
            num_supernodes=clients,
            exit_event=EventType.PYTHON_API_RUN_SIMULATION_LEAVE,
            client_app=client_app,
            server_app=server_app,
            backend_config=backend,
        )
    finally:
        for name, value in zip(_IDENTITY, before, strict=True):
            setattr(TaskIdentity, name, value)
