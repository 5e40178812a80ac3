"""The ServerApp of an overlay: the app's own, on a recording grid, in whatever process Flower runs it."""

import json
import time
import traceback
from pathlib import Path
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from fl_audit.core.errors import FederationError
from fl_audit.core.files import read_model, write_json, write_tensors
from fl_audit.core.registry import import_object
from fl_audit.core.seeding import seeded_globals
from fl_audit.federation.apps import _flwr_config as flower
from fl_audit.federation.apps.job import FROZEN, HELD_OUT, OUTCOME, AppFailure, AppJob, AppOutcome, Where
from fl_audit.federation.apps.observe import AppObserver, recorder_for
from fl_audit.federation.apps.outcome import failure_of, outcome_of, seen_by, together, watch_for
from fl_audit.federation.apps.waiting import WAITING, AppWaits, impatient
from fl_audit.federation.overlay.client_side import HELLO, PARTITION, UNKNOWN
from fl_audit.federation.overlay.grid import OverlayGrid
from fl_audit.federation.overlay.spool import Spool
from fl_audit.federation.overlay.untold import UNWATCHED, stated, untold
from fl_audit.strategies.interception import AuditGrid

EVENTS = "events.jsonl"
"""What the server's side tells while it runs, one JSON object a line, beside the job's file."""


class ServerSide(ServerApp):
    """Runs the app's own ServerApp, and leaves captures, truth and the outcome in the run folder.

    Args:
        job: the job's file; the server must run where it can be read.
        folder: where the app's modules lie.
    """

    def __init__(self, *, job: str, folder: str) -> None:
        super().__init__()
        self._job, self._folder = job, folder

    def __call__(self, grid: Grid, context: Context) -> None:
        """Run the federation; what the app raises comes out again, for Flower to see."""
        if not Path(self._job).is_file():
            raise FileNotFoundError(
                f"{self._job} cannot be read here: the SuperLink must run its ServerApps on the machine of "
                "fl-audit, or share its files"
            )
        _ServerRun(Path(self._job), Path(self._folder)).run(grid, context)


class _ServerRun:
    """One federation, seen from its server."""

    def __init__(self, job: Path, folder: Path) -> None:
        self._place, self._folder = job.parent, folder
        self._job = read_model(job, AppJob, "the job of an app")
        self._spool = Spool(self._job)
        self._watch = watch_for(self._job)
        self._notes: list[str] = []
        self._recorder = recorder_for(self._job)
        self._observer = AppObserver(
            Path(self._job.out) / "truth",
            lambda number: self._tell({"round": number}),
            _unwatched if self._job.server_only else self._spool.take,
        )

    def run(self, grid: Grid, context: Context) -> None:
        """Run the app's server to its end, and write the outcome whatever happens."""
        self._tell({"run": context.run_id})
        self._spool.begin()
        where: Where = "import"
        try:
            with self._watch.hooked(), self._watch.losses():
                server = flower.load_component(self._job.server, ServerApp, self._folder)
                if self._job.truth is not None:
                    self._observer.operator = import_object(self._job.truth, "truth")
                where = "wait"
                waiting = min(WAITING, self._job.timeout)
                raw = OverlayGrid(grid, limit=self._job.timeout, waiting=waiting)
                self._meet(raw)
                where = "server"
                audited = AuditGrid(raw, self._recorder, observer=self._observer)
                with seeded_globals(self._job.seed, "app", "server"), impatient(waiting):
                    server(audited, context)
        except SystemExit as error:
            if _by_flower(error):
                self._finish(
                    AppFailure(where="flower", text="Flower stopped the run before its end (flwr stop)")
                )
                raise
            if where == "server":
                self._notes.append(f"the server app ended by sys.exit({error.code!r})")
                self._finish(None)
                return
            self._finish(failure_of(where, error, self._folder))
            raise
        except BaseException as error:
            self._finish(failure_of("wait" if isinstance(error, AppWaits) else where, error, self._folder))
            raise
        self._finish(None)

    def _meet(self, grid: OverlayGrid) -> None:
        """Wait for the nodes and number them: by partition if each says its own, else by rank of node id."""
        nodes = self._nodes(grid.grid)
        numbers = {node: number for number, node in enumerate(sorted(nodes))}
        if not self._job.server_only:
            replies = grid.send_and_receive([Message(RecordDict(), node, HELLO) for node in nodes])
            told = {reply.metadata.src_node_id: _partition(reply) for reply in replies}
            known = sorted(told.values())
            if len(told) == len(nodes) and UNKNOWN not in known and len(set(known)) == len(known):
                numbers = told
            else:
                self._notes.append(
                    "clients are numbered by rank of node id: not every node has a partition-id of its own"
                )
        self._observer.clients = numbers
        self._recorder.know_clients(numbers)
        grid.arrange(numbers)

    def _nodes(self, grid: Grid) -> list[int]:
        end = time.monotonic() + min(WAITING, self._job.timeout)
        while True:
            nodes = list(grid.get_node_ids())
            if len(nodes) >= self._job.clients:
                return nodes
            if time.monotonic() > end:
                raise FederationError(
                    f"{len(nodes)} of {self._job.clients} SuperNodes were connected after "
                    f"{min(WAITING, self._job.timeout):g} s. Start the others, or ask for fewer: --clients N"
                )
            time.sleep(0.2)

    def _finish(self, failure: AppFailure | None) -> None:
        """Write what was held out and the outcome, the latter last."""
        self._watch.training.clear()
        job, numbers = self._job, self._observer.clients
        seen = together([*self._spool.seen(), seen_by(self._watch)])
        if job.server_only:
            seen = stated(job, self._observer.told_shape, seen)
        outcome = outcome_of(job, seen, self._observer, self._recorder, failure=failure, notes=self._notes)
        tracebacks = {numbers.get(node, node): text for node, text in self._spool.errors()}
        more: dict[str, Any] = {"clients": len(numbers) or None, "tracebacks": tracebacks}
        if job.server_only:
            more["untold"] = untold(job, seen)
        held = self._spool.held_out() or self._held_here()
        if held is not None:
            write_tensors(self._place / HELD_OUT, held)
        frozen = self._spool.frozen()
        if frozen is not None and outcome.recipe is not None:
            write_tensors(self._place / FROZEN, dict(frozen))
        self._spool.end()
        outcome = outcome.model_copy(update=more)
        write_json(self._place / OUTCOME, AppOutcome.model_validate(outcome).model_dump(mode="json"))

    def _held_here(self) -> dict[str, Any] | None:
        found = self._watch.held_out()
        return None if found is None else {"images": found[0], "labels": found[1]}

    def _tell(self, event: dict[str, Any]) -> None:
        with (self._place / EVENTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")


def _unwatched(grid: Grid, rounds: dict[int, int], timeout: float) -> dict[int, Any]:
    del grid, timeout
    return dict.fromkeys(rounds, UNWATCHED)


def _by_flower(error: SystemExit) -> bool:
    """Whether Flower's own handler of signals ends the process, not the app."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].name == "flwr_exit"


def _partition(reply: Message) -> int:
    if not reply.has_content():
        return UNKNOWN
    value = reply.content.config_records[PARTITION].get("number")
    return value if isinstance(value, int) else UNKNOWN
