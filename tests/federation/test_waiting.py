"""A server that waits for nodes that do not come is told from one that works."""

import sys
import threading
import time
from pathlib import Path

from flwr.clientapp import ClientApp
from flwr.server.client_manager import SimpleClientManager

from fl_audit.federation._flwr_private import task_identity
from fl_audit.federation.apps.grid import waits_for_clients
from fl_audit.federation.local_engine import LocalGrid
from fl_audit.federation.overlay.grid import AppWaits, OverlayGrid
from tests.e2e.apps import SERVER, write_app
from tests.federation.test_app_habits import LOOP
from tests.federation.test_apps import run

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


def test_what_flowers_older_api_waits_with_is_known() -> None:
    manager = SimpleClientManager()
    thread = threading.Thread(target=manager.wait_for, args=(1, 2), daemon=True)
    assert not waits_for_clients(threading.get_ident())
    thread.start()
    end = time.monotonic() + 1.5
    while not waits_for_clients(thread.ident or 0) and time.monotonic() < end:
        time.sleep(0.01)
    assert waits_for_clients(thread.ident or 0)
    thread.join()
    assert thread.ident not in sys._current_frames()
    assert not waits_for_clients(thread.ident or 0)


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
