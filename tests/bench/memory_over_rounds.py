"""Memory over the rounds of an app with many clients: all processes of its audit's capture together (Linux).

python tests/bench/memory_over_rounds.py [--clients 200] [--rounds 20] [--fraction 0.1]

One line for each round. Flat is what it should be: captures go to disk as they arrive.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

from fl_audit.federation.apps import AppJob, read_app, run_app
from tests.bench.default_run import proportional_memory, tree

APP = Path(__file__).resolve().parents[1] / "apps" / "one_image"


def main() -> None:
    """Run the app and print memory at the beginning of each round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--fraction", type=float, default=0.1)
    given = parser.parse_args()
    overrides = [f"fraction-train={given.fraction}"]
    app = read_app(APP, overrides, clients=given.clients, rounds=given.rounds)
    start, memory = time.monotonic(), []

    def on_round(number: int) -> None:
        used = sum(map(proportional_memory, tree(os.getpid()))) / 2**20
        memory.append(used)
        print(f"round {number}: {used:.0f} MiB after {time.monotonic() - start:.0f} s", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        job = AppJob(
            folder="",
            code=str(APP),
            server=app.server,
            client=app.client,
            config=app.config,
            clients=app.clients,
            seed=0,
            defense="none",
            slug="none",
            out=folder,
            rounds=None,
            attacked=None,
            timeout=600.0,
            disk=10**10,
        )
        outcome = run_app(job, Path(folder) / "process", on_round)
        captures = len(list(Path(folder).glob("captures/none/r*-c*.json")))
    late = memory[len(memory) // 2 :]
    print(f"{captures} captures, failure {outcome.failure}; from the middle on {min(late):.0f} to ", end="")
    print(f"{max(late):.0f} MiB, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
