"""The process that runs one app under one defense: ``python -m fl_audit.federation.apps.child JOB FD``.

It tells the auditor's process of each round through the descriptor FD, and leaves captures, truth and an
outcome on disk. It ends by itself when that process is gone.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fl_audit.core.files import read_model, write_json, write_tensors
from fl_audit.core.registry import import_object
from fl_audit.core.seeding import derive_seed, seeded_globals
from fl_audit.federation._flwr_private import task_identity
from fl_audit.federation._parent import when_orphaned
from fl_audit.federation.apps import _flwr_config as flower
from fl_audit.federation.apps.app_witness import AppWitness
from fl_audit.federation.apps.grid import AppGrid, LoudApp
from fl_audit.federation.apps.job import FROZEN, HELD_OUT, OUTCOME, AppFailure, AppJob, Where
from fl_audit.federation.apps.observe import AppObserver, recorder_for
from fl_audit.federation.apps.outcome import failure_of, outcome_of, seen_by, watch_for
from fl_audit.federation.apps.protections import of_mods
from fl_audit.federation.apps.waiting import WAITING, AppWaits, impatient, waits_in_vain
from fl_audit.federation.truth import hello
from fl_audit.federation.wrapped import WrappedClientApp
from fl_audit.models.app_model import SOURCES
from fl_audit.strategies.defenses import defenses
from fl_audit.strategies.interception import AuditGrid


def main(arguments: list[str]) -> None:
    """Run the job; the process ends here, whatever threads the app has left running."""
    job = read_model(Path(arguments[0]), AppJob, "the job of an app")
    pipe = os.fdopen(int(arguments[1]), "w", buffering=1)
    when_orphaned(lambda: os._exit(1))
    if (Path.cwd() / SOURCES).is_dir():
        sys.path.insert(0, str(Path.cwd() / SOURCES))  # also before an installation of it
    run = _Run(job, Path(arguments[0]).parent, pipe)
    run.start()
    run.finish(None)


class _Run:
    """One federation of the app."""

    def __init__(self, job: AppJob, place: Path, pipe: Any) -> None:
        self._job, self._place, self._pipe = job, place, pipe
        self._notes: list[str] = []
        self._failure: AppFailure | None = None
        self._watch = watch_for(job)
        self._recorder = recorder_for(job)
        self._observer = AppObserver(Path(job.out) / "truth", lambda number: self._tell({"round": number}))
        self._over = threading.Lock()

    def start(self) -> None:
        """Load the app and run it to its end."""
        job = self._job
        with self._watch.hooked():
            try:
                with self._watch.origins.watching():
                    server = flower.load_component(job.server, ServerApp, Path.cwd())
                    client = flower.load_component(job.client, ClientApp, Path.cwd())
            except BaseException as error:  # also an app that exits while it is imported
                self._failure = failure_of("import", error, Path.cwd())
                return
            self._observer.own += of_mods(client)
            if job.truth is not None:
                self._observer.operator = import_object(job.truth, "truth")
            self._federate(server, client)

    def _federate(self, server: ServerApp, client: ClientApp) -> None:
        job, watch = self._job, self._watch
        wrapped = WrappedClientApp(
            LoudApp(client),
            defenses.create(job.defense),
            seed=job.seed,
            keep=lambda _, client: self._recorder.wants(client),
            round_of=lambda _: self._recorder.latest,
            witness=lambda: AppWitness(watch),
        )
        run_id = derive_seed(job.seed, "run")
        with task_identity(run_id):
            grid = AppGrid(
                wrapped,
                clients=job.clients,
                seed=job.seed,
                run_id=run_id,
                run_config=job.config,
                limit=job.timeout,
                watch=watch,
            )
            clients = hello(grid, list(grid.get_node_ids()), job.timeout)
            self._observer.clients = clients
            self._recorder.know_clients(clients)
            threading.Thread(target=self._guard_waiting, args=(grid,), daemon=True).start()
            audited = AuditGrid(grid, self._recorder, observer=self._observer)
            try:
                self._serve(server, audited, run_id)
            except SystemExit as error:
                self._notes.append(f"the server app ended by sys.exit({error.code!r})")
            except BaseException as error:
                where: Where = "wait" if isinstance(error, AppWaits) else "server"
                self._failure = failure_of(where, error, Path.cwd())

    def _serve(self, server: ServerApp, grid: Grid, run_id: int) -> None:
        context = Context(run_id, 0, {}, RecordDict(), dict(self._job.config))
        limit = min(WAITING, self._job.timeout)
        with seeded_globals(self._job.seed, "app", "server"), self._watch.losses(), impatient(limit):
            server(grid, context)

    def _guard_waiting(self, grid: AppGrid) -> None:
        """End a server that waits for more nodes than there are, as Flower's strategies do for ever."""
        while not grid.waits():
            time.sleep(0.5)
        self._failure = AppFailure(where="wait", text=waits_in_vain(f"{self._job.clients} clients"))
        self.finish(None)

    def finish(self, failure: AppFailure | None) -> None:
        """Write the outcome and end the process."""
        with self._over:
            outcome = outcome_of(
                self._job,
                seen_by(self._watch),
                self._observer,
                self._recorder,
                failure=failure or self._failure,
                notes=self._notes,
            )
            held = self._watch.held_out()
            if held is not None:
                write_tensors(self._place / HELD_OUT, {"images": held[0], "labels": held[1]})
            if outcome.recipe is not None and self._watch.frozen:
                write_tensors(self._place / FROZEN, self._watch.frozen)
            write_json(self._place / OUTCOME, outcome.model_dump(mode="json"))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)

    def _tell(self, event: dict[str, Any]) -> None:
        self._pipe.write(json.dumps(event) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
