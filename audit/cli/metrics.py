"""``fl-audit metrics``: two folders of images graded without a federation, metrics held against labels."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fl_audit.cli._paths import writable
from fl_audit.core.errors import ConfigError

if TYPE_CHECKING:  # slow to import, and `fl-audit --help` does without
    from fl_audit.metrics import Metric

_EPILOG = """
Pairs are found by name: X_ori.png with X_rec.png, or equal names; the two folders may be one.

Examples:

  fl-audit metrics originals reconstructions

  fl-audit metrics pairs pairs --labels labels.json --group arch --json metrics.json --html metrics.html

  fl-audit metrics a b --metric ssim --metric lpips:vgg
"""


def add(app: typer.Typer) -> None:
    """Add the command."""
    app.command("metrics", epilog=_EPILOG)(_command)


def _command(
    originals: Annotated[Path, typer.Argument(help="Folder of original images.", show_default=False)],
    reconstructions: Annotated[
        Path, typer.Argument(help="Folder of reconstructions; may be the same.", show_default=False)
    ],
    labels: Annotated[
        Path | None,
        typer.Option(help="Judgements of recognisability, 0 to 1: labels.json, or JSONL with id and label."),
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(
            help="Field of the labels whose values are ranked, e.g. arch; repeat to combine fields."
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="Metric to compute, e.g. ssim or lpips:vgg; repeat. Default: the cheap ones."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")] = "auto",
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write every score and figure to this file.")
    ] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", help="Write a self-contained page with plots and pictures.")
    ] = None,
) -> None:
    """Grade reconstructions against originals, and metrics against people's judgements. No federation."""
    if group and labels is None:
        raise ConfigError("--group ranks by a field of the labels, so it needs --labels FILE")
    writable(json_file, "--json")
    writable(html_file, "--html")

    from fl_audit.cli._live import live_progress
    from fl_audit.cli._metric_tables import print_study
    from fl_audit.core.files import write_json, write_text
    from fl_audit.faithfulness import render_study, study
    from fl_audit.run.attack_stage import pick_device

    units = _units(metric or [])
    chosen = pick_device(device)
    with live_progress() as progress:
        found = study(
            originals,
            reconstructions,
            units,
            labels=labels,
            by=group or (),
            progress=progress,
            device=chosen,
        )
    print_study(found.result)
    if json_file is not None:
        write_json(json_file, found.result.model_dump(mode="json"))
        typer.echo(f"For scripts: {json_file}")
    if html_file is not None:
        write_text(html_file, render_study(found))
        typer.echo(f"Page: {html_file}")


def _units(specs: list[str]) -> "dict[str, Metric]":
    """The metrics by the name to report them under: as asked for, or those that are cheap and need no run."""
    from fl_audit.metrics import metrics

    if not specs:
        return {name: cls() for name, cls in metrics if cls.default and not cls.wants}
    return {spec: metrics.create(spec) for spec in specs}
