"""``fl-audit attack|grade|report RUN``: one stage of a run again, here or on another machine."""

from pathlib import Path
from typing import Annotated

import typer

_Run = Annotated[Path, typer.Argument(help="A run folder.", show_default=False)]
_Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 …; default: as configured.")]


def add(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("attack", epilog="Example: fl-audit attack fl-audit-run --device cuda")(_attack)
    app.command("grade", epilog="Example: fl-audit grade fl-audit-run")(_grade)
    app.command("report", epilog="Example: fl-audit report fl-audit-run")(_report)


def _attack(run: _Run, device: _Device = None) -> None:
    """Attack the captures of RUN that are not attacked yet. Needs no ground truth and no Flower."""
    from fl_audit.cli._live import live_progress
    from fl_audit.run.attack_stage import attack_captures, pick_device
    from fl_audit.run.folder import RunFolder

    folder = RunFolder.open(run)
    config = folder.load_config()
    chosen = pick_device(device or config.attack.device)
    with folder.lock(), live_progress() as progress:
        attack_captures(folder, config, progress, chosen)
    typer.echo(f"Attacked. Grade it: fl-audit grade {run}")


def _grade(
    run: _Run,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="Metric to grade by instead of the run's; repeat. 'default': the cheap ones."),
    ] = None,
) -> None:
    """Grade the reconstructions of RUN against the ground truth, and write the reports."""
    from fl_audit.cli._live import live_progress
    from fl_audit.cli._session import close
    from fl_audit.run.folder import RunFolder
    from fl_audit.run.grade_stage import grade_run
    from fl_audit.run.load import resolve_config

    folder = RunFolder.open(run)
    config = resolve_config(folder.config, {"grade.metrics": metric} if metric else {})
    with folder.lock(), live_progress() as progress:
        grade_run(folder, config, progress)
    close(folder)


def _report(run: _Run) -> None:
    """Write report.html and the clients' pages of RUN again, from its JSON and PNG files alone."""
    from fl_audit.cli._session import close
    from fl_audit.run.folder import RunFolder

    close(RunFolder(run))
