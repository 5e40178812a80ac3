"""The model card of a weight file, written by the recipe so that its figures are those of the file."""

import math
from collections.abc import Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined

from fl_audit.semsim.degradations import KINDS
from fl_audit.semsim.evaluation import Agreement
from fl_audit.semsim.lite import Lite
from fl_audit.semsim.pairs import REAL_SHARE
from fl_audit.semsim.settings import Settings
from fl_audit.semsim.weights import NAME, Weights


def card(weights: Weights, figures: Mapping[str, Agreement], settings: Settings, size: int) -> str:
    """The card in Markdown; what was found out about the packaged weights alone stands in theirs alone.

    Args:
        weights: saved ones, with their hash.
        figures: agreement by name of the labels.
        settings: how they were trained.
        size: bytes of the file.
    """
    rows = [
        f"| {name} | {found.pairs} | {_figure(found.spearman, 3)} | {_figure(found.kendall, 3)} "
        f"| {_figure(found.auc, 4)} | {_figure(found.ece, 3)} |"
        for name, found in figures.items()
    ]
    real = f"those of examples/semsim_reconstructions.py, {REAL_SHARE / 2:.1%} of the made pairs"
    environment = Environment(
        loader=PackageLoader("fl_audit.semsim"),
        autoescape=False,  # Markdown, of our own words and numbers
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("card.md").render(
        name=NAME,
        size=size,
        sha256=weights.sha256,
        backbone=weights.backbone,
        readers=len(weights.network.readers) if isinstance(weights.network, Lite) else 0,
        parameters=sum(parameter.numel() for parameter in weights.network.parameters()),
        slope=weights.calibration.slope,
        intercept=weights.calibration.intercept,
        kinds=len(KINDS),
        real="none" if settings.reconstructions is None else real,
        figures="\n".join(rows),
        packaged=settings.packaged,
        command=settings.command(),
        steps=settings.steps,
        seed=settings.seed,
        loss=settings.loss,
        without=settings.without,
        minutes=settings.minutes,
    )


def _figure(value: float, digits: int) -> str:
    return "not defined" if math.isnan(value) else f"{value:.{digits}f}"
