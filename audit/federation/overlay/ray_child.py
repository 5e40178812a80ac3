"""Engine ``ray`` for an app: ``python -m fl_audit.federation.overlay.ray_child JOB FD``, in the overlay."""

import logging
import sys
import threading
import time
import traceback
from pathlib import Path

from fl_audit.federation._flwr_private import simulate_folder
from fl_audit.federation.apps.job import AppFailure, AppJob
from fl_audit.federation.overlay.supervise import Orders, supervise
from fl_audit.federation.overlay.write import CLIENT, SERVER

_POLL = 0.1  # seconds
_AFTER = 10.0  # seconds that Ray gets to stop once the server's side is done: a client may hang for good


def work(orders: Orders) -> None:
    """Run Flower's simulation engine to its end; the server's side writes the outcome.

    In a thread: the engine's own main thread waits for workers, and cannot be interrupted.
    """
    failures: list[Exception] = []
    thread = threading.Thread(target=_simulate, args=(orders.job, failures), daemon=True)
    thread.start()
    while thread.is_alive() and not orders.outcome.exists():
        time.sleep(_POLL)
    thread.join(_AFTER)
    if not orders.outcome.exists():
        error = failures[0] if failures else RuntimeError("it ended without a word")
        root = error.__cause__ or error
        root = root.__cause__ or root
        text = f"Flower's simulation engine failed: {type(root).__name__}: {root}. Try engine local"
        orders.failed(AppFailure(where="flower", text=text))


def _simulate(job: AppJob, failures: list[Exception]) -> None:
    try:
        simulate_folder(
            Path.cwd(),
            server=f"{SERVER}:app",
            client=f"{CLIENT}:app",
            clients=job.clients,
            backend={
                "init_args": {"address": "local", "include_dashboard": False, "logging_level": logging.ERROR},
                "client_resources": {"num_cpus": 1, "num_gpus": 0},
            },
        )
    except Exception as error:
        traceback.print_exc()
        failures.append(error)


if __name__ == "__main__":
    supervise(sys.argv[1:], work)
