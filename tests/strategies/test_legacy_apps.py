"""Apps of Flower's older API (server_fn, NumPyClient) are recorded through the grid."""

from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, RecordDict
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters
from flwr.server import ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.serverapp import ServerApp

from fl_audit.core.captures import list_captures, read_update
from fl_audit.core.types import CaptureKey
from fl_audit.federation._flwr_private import empty_run, task_identity
from fl_audit.federation.local_engine import LocalGrid
from fl_audit.federation.server_app import quiet_flower
from fl_audit.strategies import audited


class Client(NumPyClient):
    def fit(self, parameters: Any, config: Any) -> Any:
        return [array + 1 for array in parameters], 7, {"note": "hello"}


def test_an_app_of_the_older_api_is_recorded(tmp_path: Path) -> None:
    def server_fn(context: Context) -> ServerAppComponents:
        model = ndarrays_to_parameters([np.zeros((2, 3)), np.ones(2)])
        old = FedAvg(initial_parameters=model, fraction_evaluate=0.0, min_available_clients=2)
        return ServerAppComponents(strategy=old, config=ServerConfig(num_rounds=2))

    def client_fn(context: Context) -> Any:
        return Client().to_client()

    with quiet_flower(), task_identity(1):
        raw = LocalGrid(ClientApp(client_fn=client_fn), clients=2, seed=1, run_id=1)
        raw.set_run(empty_run(1))
        ServerApp(server_fn=server_fn)(audited(raw, out=tmp_path), Context(1, 0, {}, RecordDict(), {}))
    keys = list_captures(tmp_path / "captures", "none")
    assert [(key.round, key.client) for key in keys] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    second = read_update(tmp_path / "captures", CaptureKey("none", 2, 1))
    assert second.problem() is None
    assert second.num_examples == 7
    assert [tensor.tolist() for tensor in second.delta().values()] == [[[1.0] * 3] * 2, [1.0, 1.0]]
    assert second.metrics["note"] == "hello"
