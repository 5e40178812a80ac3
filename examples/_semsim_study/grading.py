"""Scores of one setting's reconstructions by every metric, and the oracle's labels."""

import torch
from torch import Tensor, nn

from _semsim_study.clients import Clients
from _semsim_study.records import Pair
from fl_audit.core.types import Reconstruction
from fl_audit.faithfulness.probability import FACTS, NAME, probabilities
from fl_audit.faithfulness.result import Estimate
from fl_audit.metrics import Context, Scores, metrics
from fl_audit.reports.describe import metric_facts
from fl_audit.reports.schema import MetricFacts, rounded
from fl_audit.semsim.oracle import grade, labels

UNITS = {name: kind() for name, kind in metrics}
"""Every registered metric; what cannot be measured here says why."""


def facts() -> list[MetricFacts]:
    """The declarations of everything that is measured."""
    return [*(metric_facts(unit) for unit in UNITS.values()), FACTS]


def pictures_of(found: list[Reconstruction], like: Tensor) -> Tensor:
    """What the attacks gave, as 8-bit pictures hold it, in the shape of ``like``; NaN where one failed."""
    images = []
    for one, original in zip(found, like, strict=True):
        missing = torch.full_like(original, torch.nan)
        images.append(missing if one.images is None else (one.images[0] * 255).round() / 255)
    return torch.stack(images)


def graded(
    names: list[str],
    originals: Tensor,
    made: Tensor,
    clients: Clients,
    found: list[Reconstruction],
    context: Context,
) -> tuple[list[Pair], dict[str, Estimate]]:
    """Score every image, and the set.

    Args:
        names: of the pairs.
        originals: float32 ``(N, 3, 32, 32)`` in [0, 1].
        made: the reconstructions, from `pictures_of`.
        clients: what they were made from.
        found: what the attacks gave.
        context: what metrics may look at besides.
    """
    scores = {name: unit.grade(originals, made, context) for name, unit in UNITS.items()}
    single = {name: entry for name, entry in scores.items() if UNITS[name].per_image}
    single[NAME] = probabilities(single)
    grades = grade(originals, clients.victims, made.nan_to_num(0.5), clients.visible, clients.kept)
    answers = labels(grades)
    pairs = [
        Pair(
            name=name,
            row=row,
            label=None if found[row].images is None else float(answers[row]),
            grade=None if found[row].images is None else rounded(float(grades[row])),
            failure=found[row].reason,
            scores={metric: _number(entry, row) for metric, entry in single.items()},
            unmeasured={metric: why for metric, entry in single.items() if (why := entry.reasons[row])},
        )
        for row, name in enumerate(names)
    ]
    whole = {name: entry for name, entry in scores.items() if name not in single}
    return pairs, {
        name: Estimate(value=_number(entry, 0), reason=entry.reasons[0]) for name, entry in whole.items()
    }


def surroundings(model: nn.Module, originals: Tensor, marks: Tensor, others: Tensor) -> Context:
    """What the metrics may look at: the network, all attacked images, and others of the data set."""
    prior = others.mean(0, keepdim=True).expand_as(originals)
    return Context(model=model, labels=marks, client=originals, others=others, prior=prior)


def _number(entry: Scores, row: int) -> float | None:
    value = float(entry.values[row])
    return rounded(value) if value == value else None
