"""Both sides of an overlay on one grid: what Flower's engines do with them, without their start."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fl_audit.core.captures import list_captures, read_truth
from fl_audit.core.errors import CaptureError
from fl_audit.core.files import read_model, write_json
from fl_audit.core.types import CaptureKey
from fl_audit.federation.apps import AppOutcome, copy_app
from fl_audit.federation.apps.job import OUTCOME
from fl_audit.federation.overlay.write import write_overlay
from tests.e2e.apps import CLIENT, TASK, job_of
from tests.e2e.deployed import agree, app_of_two_clients, federate

ON_ONE_GRID = """
import sys
from flwr.app import Context, RecordDict
from fl_audit.federation._flwr_private import task_identity
from fl_audit.federation.apps import _flwr_config as flower
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from pathlib import Path
from fl_audit.federation.local_engine import LocalGrid

place, clients = Path(sys.argv[1]), int(sys.argv[2])
components = flower.project(place)["tool"]["flwr"]["app"]["components"]
client = flower.load_component(components["clientapp"], ClientApp, place)
server = flower.load_component(components["serverapp"], ServerApp, place)
config = flower.run_config(place, [])
with task_identity(7):
    grid = LocalGrid(client, clients=clients, seed=99, run_id=7, run_config=config)
    server(grid, Context(7, 0, {}, RecordDict(), config))
"""


def on_one_grid(app: Path, out: Path, **changes: Any) -> AppOutcome:
    """Write the overlay and let its two components meet."""
    job = job_of(app, out, clients=2, folder=str(out / "overlay"), engine="flwr", **changes)
    file = out / "process/job.json"
    write_json(file, job.model_dump(mode="json"))
    copy_app(app, out / "overlay")
    write_overlay(out / "overlay", job, file)
    command = [sys.executable, "-c", ON_ONE_GRID, str(out / "overlay"), "2"]
    done = subprocess.run(command, cwd=out / "overlay", capture_output=True, text=True, timeout=280)
    assert (out / "process" / OUTCOME).is_file(), done.stderr
    return read_model(out / "process" / OUTCOME, AppOutcome, "an outcome")


def test_both_sides_capture_and_seal_what_the_local_engine_does_whatever_the_nodes_are_called(
    tmp_path: Path,
) -> None:
    app = app_of_two_clients(tmp_path, "sides")
    outcome = on_one_grid(app, tmp_path / "ours")
    local = federate(app, tmp_path / "local")
    agree(tmp_path / "ours", tmp_path / "local", truth=True)
    assert outcome == local.model_copy(update={"clients": 2})
    assert not list((tmp_path / "ours/truth/.arriving").iterdir())


def test_a_clients_failure_comes_with_the_apps_own_traceback(tmp_path: Path) -> None:
    before = "raise OSError(f'no data for {context.node_config}')"
    outcome = on_one_grid(app_of_two_clients(tmp_path, "failing_sides", before=before), tmp_path / "out")
    assert {problem.client for problem in outcome.failures} == {0, 1}
    assert all("OSError: no data for" in problem.reason for problem in outcome.failures)
    assert set(outcome.tracebacks) == {0, 1}
    assert outcome.tracebacks[1].startswith('  File "failing_sides/client.py"')
    assert "fl_audit" not in outcome.tracebacks[1]


def test_clients_that_run_the_apps_own_code_are_captured_and_their_truth_is_the_operators(
    tmp_path: Path,
) -> None:
    more = """

def build():
    return Net(32)


def images_of(client, number):
    pixels = torch.tensor(load_digits().images[:1], dtype=torch.float32)[:, None] / 16
    return pixels, torch.tensor([client])
"""
    app = app_of_two_clients(tmp_path, "own_code", client=CLIENT, task=TASK + more)
    told: dict[str, Any] = {"server_only": True, "model": "own_code.task:build", "input_range": (-1.0, 1.0)}
    outcome = on_one_grid(app, tmp_path / "out", **told, truth="own_code.task:images_of")
    keys = list_captures(tmp_path / "out/captures", "none")
    assert [key.client for key in keys] == [0, 1]
    assert [int(read_truth(tmp_path / "out/truth", key).labels[0]) for key in keys] == [0, 1]
    assert (outcome.untold, outcome.image_shape, outcome.classes) == ([], (1, 8, 8), 10)
    assert outcome.recipe is not None
    assert outcome.recipe.std == [0.5]
    outcome = on_one_grid(app, tmp_path / "none", server_only=True)
    assert "--model module:function" in outcome.untold
    assert "--input-range LOW,HIGH" in outcome.untold
    with pytest.raises(CaptureError, match="must come from the operator"):
        read_truth(tmp_path / "none/truth", CaptureKey("none", 1, 0))
