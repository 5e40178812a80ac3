"""Our Flower ServerApp: runs the strategy on a recording grid and measures the global model each round."""

import logging
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy
from torch import nn

from fl_audit.core.errors import FederationError
from fl_audit.core.progress import Progress
from fl_audit.core.seeding import seeded_globals
from fl_audit.federation._ledger import Ledger
from fl_audit.federation.ray_engine import StoppableGrid
from fl_audit.federation.spec import FederationSpec
from fl_audit.federation.training import evaluate
from fl_audit.federation.truth import hello
from fl_audit.strategies.interception import AuditGrid
from fl_audit.strategies.recorder import Recorder


def make_server_app(
    spec: FederationSpec,
    strategy: Strategy,
    model: nn.Module,
    *,
    recorder: Recorder,
    ledger: Ledger,
    progress: Progress,
    stop: threading.Event | None = None,
) -> ServerApp:
    """The app that both engines run; ``model`` holds the initial weights, and the final ones afterwards.

    With ``stop`` the app can be stopped from another thread, and its grid is put in order: see
    `StoppableGrid`. The engine ``local`` needs neither.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        raw = grid if stop is None else StoppableGrid(grid, stop)
        clients = hello(raw, _all_nodes(raw, spec, stop or threading.Event()), spec.timeout)
        ledger.clients = clients
        recorder.know_clients(clients)
        if isinstance(raw, StoppableGrid):
            raw.arrange(clients)
        audit = AuditGrid(raw, recorder, quarantine=True, observer=ledger)
        # Flower samples nodes and draws noise from the global generators: seeded here and nowhere else.
        with seeded_globals(spec.seed, "flower"):
            strategy.start(
                grid=audit,
                initial_arrays=ArrayRecord(model.state_dict()),
                num_rounds=spec.rounds,
                timeout=spec.timeout,
                train_config=ConfigRecord(),
                evaluate_fn=measure,
            )

    def measure(number: int, arrays: ArrayRecord) -> MetricRecord | None:
        model.load_state_dict(arrays.to_torch_state_dict(), strict=True)
        accuracy, loss = None, None
        rows = spec.splits.held_out
        if len(rows):
            accuracy, mean = evaluate(
                model, spec.data.images[rows].to(spec.device), spec.data.labels[rows].to(spec.device)
            )
            loss = mean if math.isfinite(mean) else None
        ledger.measured(number, accuracy, loss)
        if number:
            progress.advance()
        return None

    return app


@contextmanager
def quiet_flower() -> Iterator[None]:
    """Keep Flower's log to errors, unless the user wants to see it (--verbose): our result says the same."""
    logger = logging.getLogger("flwr")
    before, passed_on = logger.level, logger.propagate
    if logging.getLogger().isEnabledFor(logging.INFO):
        logger.propagate = False  # Flower's own handler prints it already
    else:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.propagate = passed_on


def _all_nodes(grid: Grid, spec: FederationSpec, stop: threading.Event) -> list[int]:
    """Wait until every client is there."""
    ticks = max(1, round(spec.timeout / 0.05))
    for _ in range(ticks):
        nodes = list(grid.get_node_ids())
        if len(nodes) >= spec.clients:
            return nodes
        if stop.wait(0.05):
            raise FederationError("the run was stopped")
    raise FederationError(f"{len(nodes)} of {spec.clients} clients were there after {spec.timeout:g} s")
