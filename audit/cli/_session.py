"""One audit in the terminal: live view, Ctrl-C, closing tables, exit code."""

import sys
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from fl_audit.cli._exit import INTERRUPTED, OVER_LIMIT
from fl_audit.cli._live import live_progress
from fl_audit.cli._tables import print_summary
from fl_audit.core.compat import check_torch_pair
from fl_audit.core.errors import ConfigError
from fl_audit.run.config import RunConfig
from fl_audit.run.folder import RunFolder

if TYPE_CHECKING:
    from fl_audit.run.app_settings import AppSettings

DEFAULT_OUT = "fl-audit-run"


def audit(
    config: RunConfig | None,
    root: Path | None,
    *,
    fail_above: float | None,
    device: str | None,
    baseline_from: Path | None = None,
) -> int:
    """Start a run (``config``) or resume one (None), to its end; returns the exit code."""
    check_torch_pair()
    from fl_audit.run.pipeline import start_run

    if config is None:
        if root is None:
            raise ConfigError("--resume: expected a run folder")
        folder = RunFolder.open(root)
    else:
        folder = start_run(config, root or free_folder(), sys.argv, device, baseline_from)
    return _finish(folder, fail_above, device)


def audit_app(
    app: Path, settings: "AppSettings", config: RunConfig, root: Path | None, *, fail_above: float | None
) -> int:
    """Audit a user's app to its end; returns the exit code."""
    check_torch_pair()
    from fl_audit.run.app_settings import start_app_run

    folder = start_app_run(app, settings, config, root or free_folder(), sys.argv)
    return _finish(folder, fail_above, None)


def _finish(folder: RunFolder, fail_above: float | None, device: str | None) -> int:
    from fl_audit.run.pipeline import finish_run

    try:
        with live_progress() as progress:
            summary = finish_run(folder, progress, device)
    except KeyboardInterrupt:
        typer.echo(
            "\ninterrupted. Nothing that was finished is lost; go on with:\n"
            f"  fl-audit run --resume {folder.root}",
            err=True,
        )
        return INTERRUPTED
    print_summary(summary, folder.root)
    return over_limit(summary.leak_rates(), fail_above)


def over_limit(rates: dict[str, float | None], limit: float | None) -> int:
    """Exit code for ``--fail-above``: an unmeasured rate counts as over, since nothing shows it is under."""
    if limit is None:
        return 0
    over = {name: rate for name, rate in rates.items() if rate is None or rate > limit}
    for name, rate in over.items():
        shown = "could not be measured" if rate is None else f"is {rate:.1%}"
        typer.echo(f"--fail-above {limit}: the leak rate of {name} {shown}", err=True)
    return OVER_LIMIT if over else 0


def close(folder: RunFolder) -> None:
    """Rebuild the reports of a graded run and print its closing tables."""
    from fl_audit.reports import build_reports
    from fl_audit.reports.schema import read_summary

    build_reports(folder.root)
    print_summary(read_summary(folder.summary), folder.root)


def free_folder() -> Path:
    """``fl-audit-run`` in the current folder, or the next free ``fl-audit-run-2``, and so on."""
    names = (DEFAULT_OUT if number == 1 else f"{DEFAULT_OUT}-{number}" for number in count(1))
    return next(path for path in map(Path, names) if not path.exists())
