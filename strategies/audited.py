"""The plug-in: one call around a Flower strategy or grid, and its federation is recorded."""

import functools
from pathlib import Path
from typing import Any, TypeVar

from flwr.serverapp import Grid

from fl_audit.core.errors import ConfigError
from fl_audit.core.recorded import write_recorded
from fl_audit.strategies.found import found_in
from fl_audit.strategies.interception import AuditGrid
from fl_audit.strategies.recorder import Keep, Recorder

T = TypeVar("T")


def audited(
    target: T,
    *,
    out: Path | str = "fl-audit-captures",
    defense: str = "none",
    keep: Keep | None = None,
    clients: int | None = None,
    quarantine: bool = False,
) -> T:
    """Record every train message of a federation below ``out/captures``, as each arrives.

    `fl_audit.core.captures.read_update` reads them back; every attack takes what it returns. Where the app
    runs Flower's SecAgg+, a round is one capture, the mean of its updates: all that its server learns.

    Args:
        target: a Flower strategy (the outermost one, where strategies wrap each other), or a grid.
        out: folder of the captures.
        defense: folder name below ``out/captures``.
        keep: says for (round, client) which captures are written.
        clients: most clients whose captures are written in a round, see `Recorder`.
        quarantine: see `AuditGrid`.

    Returns:
        A strategy comes back as the same object, whose ``start`` now runs on a recording grid; the result of
        the federation is the same to the bit. For a grid, the recording grid comes back.

    Raises:
        ConfigError: ``target`` is neither, or already audited.
    """
    recorder = Recorder(out, defense=defense, keep=keep, clients=clients)
    if isinstance(target, Grid):
        if isinstance(target, AuditGrid):
            raise ConfigError("this grid is audited already")
        return AuditGrid(target, recorder, quarantine=quarantine)  # type: ignore[return-value]  # is a Grid
    start = getattr(target, "start", None)
    if not callable(start):
        raise ConfigError(
            f"audited() takes a Flower strategy with a start method, or a grid, got {type(target).__name__}. "
            "For an app of Flower's older API, audit the grid: app.main gets it as its first argument"
        )
    if hasattr(start, "__fl_audit__"):
        raise ConfigError("this strategy is audited already")

    @functools.wraps(start)
    def recording_start(grid: Grid, *args: Any, **kwargs: Any) -> Any:
        own = found_in(target)
        if own:
            write_recorded(recorder.root / defense, own)
        try:
            return start(AuditGrid(grid, recorder, quarantine=quarantine), *args, **kwargs)
        finally:
            recorder.drain()

    recording_start.__dict__["__fl_audit__"] = True
    target.start = recording_start  # type: ignore[attr-defined]  # any strategy, whatever its class
    return target
