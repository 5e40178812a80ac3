"""A server that waits for nodes that do not come is told from one that works."""

import threading
import time
from pathlib import Path

import pytest
from flwr.clientapp import ClientApp
from flwr.server import SimpleClientManager

from fl_audit.federation._flwr_private import task_identity
from fl_audit.federation.apps.waiting import AppWaits, impatient
from fl_audit.federation.local_engine import LocalGrid
from fl_audit.federation.overlay.grid import OverlayGrid
from tests.e2e.apps import SERVER, write_app
from tests.federation.test_app_habits import LOOP
from tests.federation.test_apps import run

LEGACY = Path(__file__).resolve().parents[1] / "apps/legacy"

WORKS = """    import time
    for _ in range(3):
        list(grid.get_node_ids())
    time.sleep(4.0)
    strategy = FedAvg("""


def test_a_server_that_evaluates_for_long_is_not_ended(tmp_path: Path) -> None:
    server = SERVER.replace("    strategy = FedAvg(", WORKS)
    outcome = run(write_app(tmp_path, package="working", server=server), tmp_path / "out", timeout=3.0)
    assert outcome.failure is None
    assert outcome.rounds == [1]


def test_a_server_that_works_between_question_and_message_is_not_ended(tmp_path: Path) -> None:
    server = LOOP.replace("        replies =", "        __import__('time').sleep(1.4)\n        replies =")
    outcome = run(write_app(tmp_path, package="thinking", server=server), tmp_path / "out", timeout=3.0)
    assert outcome.failure is None
    assert outcome.rounds == [1, 2, 3]


def test_flowers_older_api_does_not_wait_for_a_day() -> None:
    manager, plain = SimpleClientManager(), SimpleClientManager.wait_for
    with impatient(0.2):
        assert manager.wait_for(0)
        assert not manager.wait_for(1, timeout=0)
        with pytest.raises(AppWaits, match=r"the 0 that there are.*--clients N"):
            manager.sample(1)
    assert SimpleClientManager.wait_for is plain


def test_an_app_of_the_older_api_that_wants_more_clients_is_ended(tmp_path: Path) -> None:
    outcome = run(LEGACY, tmp_path / "out", clients=1, timeout=5.0)  # it wants two
    assert outcome.failure is not None
    assert outcome.failure.where == "wait"
    assert "--clients N" in outcome.failure.text


def test_under_flowers_engines_only_asking_all_the_time_counts_and_only_the_servers() -> None:
    with task_identity(1):
        inner = LocalGrid(ClientApp(), clients=2, seed=0, run_id=1)
        grid = OverlayGrid(inner, limit=5.0, waiting=0.4)
        for _ in range(3):  # with pauses in which it works
            for _ in range(3):
                grid.get_node_ids()
            time.sleep(0.5)
        failures: list[AppWaits] = []

        def ask(seconds: float) -> None:
            end = time.monotonic() + seconds
            while time.monotonic() < end and not failures:
                try:
                    grid.get_node_ids()
                except AppWaits as error:
                    failures.append(error)
                time.sleep(0.02)

        other = threading.Thread(target=ask, args=(0.7,))
        other.start()
        other.join()
        assert not failures
        ask(30.0)
        assert failures
