"""The model card of a weight file, written by the recipe so that its figures are those of the file."""

import math
from collections.abc import Mapping
from importlib.resources import files

from fl_audit.semsim.evaluation import Agreement
from fl_audit.semsim.weights import NAME, Weights


def card(
    weights: Weights,
    figures: Mapping[str, Agreement],
    *,
    size: int,
    kinds: int,
    real: str,
    steps: int,
    seed: str,
    command: str,
) -> str:
    """The card in Markdown.

    Args:
        weights: saved ones, with their hash.
        figures: agreement by name of the labels.
        size: bytes of the file.
        kinds: how many degradations training drew from.
        real: which real reconstructions took part, in words.
        steps: of the optimiser.
        seed: of everything drawn.
        command: how to repeat it.
    """
    calibration = weights.calibration
    rows = [
        f"| {name} | {found.pairs} | {_figure(found.spearman, 3)} | {_figure(found.kendall, 3)} "
        f"| {_figure(found.auc, 4)} | {_figure(found.ece, 3)} |"
        for name, found in figures.items()
    ]
    template = files("fl_audit.semsim").joinpath("templates", "card.md").read_text(encoding="utf-8")
    return template.format(
        name=NAME,
        size=size,
        sha256=weights.sha256,
        backbone=weights.backbone,
        parameters=sum(parameter.numel() for parameter in weights.network.parameters()),
        slope=calibration.slope,
        intercept=calibration.intercept,
        kinds=kinds,
        real=real,
        figures="\n".join(rows),
        command=command,
        steps=f"{steps:,}",
        seed=seed,
    )


def _figure(value: float, digits: int) -> str:
    return "not defined" if math.isnan(value) else f"{value:.{digits}f}"
