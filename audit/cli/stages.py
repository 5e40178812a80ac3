"""``fl-audit attack|grade|report RUN``: one stage of a run again, here or on another machine."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fl_audit.cli._seconds import seconds
from fl_audit.cli.app import shape_of
from fl_audit.core.errors import ConfigError

if TYPE_CHECKING:
    from fl_audit.run.folder import RunFolder

_Run = Annotated[Path, typer.Argument(help="A run folder.", show_default=False)]
_Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 …; default: as configured.")]

_ATTACK = """
Examples:

  fl-audit attack fl-audit-run --device cuda

  fl-audit attack fl-audit-captures --model my_app.task:Net --num-classes 10 --image-shape 3,32,32

  fl-audit attack fl-audit-captures --model lenet --num-classes 10 --image-shape 3,32,32
    --training learning_rate=0.1,batch_size=4,local_steps=1
"""


def add(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("attack", epilog=_ATTACK)(_attack)
    app.command("grade", epilog="Example: fl-audit grade fl-audit-run")(_grade)
    app.command("report", epilog="Example: fl-audit report fl-audit-run")(_report)


def _attack(
    run: _Run,
    device: _Device = None,
    model: Annotated[
        str | None, typer.Option(help="Captures of audited(...): architecture, a name or module:function.")
    ] = None,
    num_classes: Annotated[int | None, typer.Option(min=2, help="Likewise: number of classes.")] = None,
    image_shape: Annotated[str | None, typer.Option(help="Likewise: C,H,W of the images.")] = None,
    training: Annotated[
        str | None,
        typer.Option(help="Likewise: how clients train, if the server knows, e.g. learning_rate=0.1."),
    ] = None,
    attack: Annotated[list[str] | None, typer.Option(help="Likewise: attack to run; repeat.")] = None,
    budget: Annotated[str | None, typer.Option(help="Likewise: time for each client, e.g. 60s.")] = None,
) -> None:
    """Attack the captures of RUN that are not attacked yet. Needs no ground truth and no Flower.

    RUN is a run folder, or the folder that audited(...) wrote captures to.
    """
    from fl_audit.cli._live import live_progress
    from fl_audit.run.adopt import write_pictures
    from fl_audit.run.attack_stage import attack_captures, pick_device
    from fl_audit.run.folder import RunFolder

    given = (model, num_classes, image_shape, training, attack, budget)
    own = not (run / "config.yaml").is_file() and (run / "captures").is_dir()
    if own:
        folder = _adopt(run, model, num_classes, image_shape, training, attack, budget)
    elif any(value is not None for value in given):
        raise ConfigError(
            f"{run} is attacked as its config.yaml says: --model and the other options are for captures of "
            "audited(...) that have none yet"
        )
    else:
        folder = RunFolder.open(run)
    config = folder.load_config()
    chosen = pick_device(device or config.attack.device)
    with folder.lock(), live_progress() as progress:
        attack_captures(folder, config, progress, chosen)
    if not (run / "truth").is_dir():
        count = write_pictures(folder)
        typer.echo(f"{count} pictures to look at: {folder.reconstructions}/*/*/*/*_rec.png")
    typer.echo(f"Attacked. Grade it: fl-audit grade {run}")


def _adopt(
    run: Path,
    model: str | None,
    num_classes: int | None,
    image_shape: str | None,
    training: str | None,
    attack: list[str] | None,
    budget: str | None,
) -> "RunFolder":
    from fl_audit.run.adopt import adopt_captures

    if model is None or num_classes is None or image_shape is None:
        raise ConfigError(
            f"{run} holds captures and no config.yaml: say what they are of, with --model module:function, "
            "--num-classes K and --image-shape C,H,W"
        )
    return adopt_captures(
        run,
        model=model,
        num_classes=num_classes,
        image_shape=shape_of(image_shape),
        training=training,
        attack=attack or (),
        budget=None if budget is None else seconds(budget),
        command=sys.argv,
    )


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
