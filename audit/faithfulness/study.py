"""From two folders and labels to everything that ``fl-audit metrics`` says."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import fl_audit
from fl_audit.core.progress import Progress
from fl_audit.faithfulness.compare import (
    METHOD,
    Column,
    agreement,
    disagreements,
    faithfulness,
    misjudged,
    spearman_ceiling,
)
from fl_audit.faithfulness.folders import PairFiles, Pairs, find_pairs
from fl_audit.faithfulness.grade import Graded, grade_pairs
from fl_audit.faithfulness.labels import Labels, read_labels
from fl_audit.faithfulness.probability import FACTS, NAME, probabilities
from fl_audit.faithfulness.ranking import ranking
from fl_audit.faithfulness.result import Estimate, LabelFacts, MetricsFile
from fl_audit.metrics import Metric, Scores
from fl_audit.reports.describe import metric_facts
from fl_audit.reports.schema import MetricFacts, rounded

MOST_DISAGREEMENTS = 24
MOST_MISJUDGED = 8
"""Pairs shown for each metric, half of them judged too close and half too far."""


@dataclass(frozen=True)
class Study:
    """What was found, and the files that it was found in."""

    result: MetricsFile
    files: Mapping[str, PairFiles]
    labels: Labels | None


def study(
    originals: Path,
    reconstructions: Path,
    units: Mapping[str, Metric],
    *,
    labels: Path | None = None,
    by: Sequence[str] = (),
    progress: Progress | None = None,
    device: torch.device | str = "cpu",
) -> Study:
    """Grade two folders of images and, with labels, hold every metric against them.

    Args:
        originals: folder of originals.
        reconstructions: folder of reconstructions; may be the same.
        units: metrics by the name to report them under.
        labels: file of labels.
        by: fields of the labels that make the groups of the ranking.
        progress: what shows how far it is.
        device: where scores are computed.

    Raises:
        ConfigError: a folder, an image or the labels are wrong; names the file or the rows. Labels are read
            before any image is.
    """
    pairs = find_pairs(originals, reconstructions)
    files = {pair.name: pair for pair in pairs.pairs}
    judged = None if labels is None else read_labels(labels, files.keys())
    groups = judged.groups(by) if judged is not None and by else {}
    graded = grade_pairs(pairs.pairs, units, progress, device)
    facts = [metric_facts(unit).model_copy(update={"name": name}) for name, unit in units.items()]
    scores = {**graded.scores, NAME: probabilities(graded.scores)}
    facts.append(FACTS.model_copy(update={"unavailable": _shared_reason(scores[NAME])}))
    columns = [
        Column(fact.name, scores[fact.name].values.numpy(), 1 if fact.better == "higher" else -1)
        for fact in facts
        if fact.per_image
    ]
    result = _result(pairs, graded, scores, facts, columns).model_copy(
        update={"originals": str(originals), "reconstructions": str(reconstructions)}
    )
    if judged is not None:
        result = result.model_copy(update=_against(judged, graded, columns, groups, by))
    return Study(result, files, judged)


def _result(
    pairs: Pairs,
    graded: Graded,
    scores: Mapping[str, Scores],
    facts: list[MetricFacts],
    columns: Sequence[Column],
) -> MetricsFile:
    measured = [column for column in columns if np.isfinite(column.values).any()]
    return MetricsFile(
        fl_audit=fl_audit.__version__,
        originals="",
        reconstructions="",
        metrics=facts,
        pairs={
            name: {metric: _number(float(entry.values[row])) for metric, entry in scores.items()}
            for row, name in enumerate(graded.names)
        },
        unmeasured={
            name: reasons
            for row, name in enumerate(graded.names)
            if (reasons := {metric: why for metric, entry in scores.items() if (why := entry.reasons[row])})
        },
        sets={name: _estimate(entry) for name, entry in graded.sets.items()},
        agreement=agreement(measured),
        disagreement=disagreements(measured, graded.names, MOST_DISAGREEMENTS),
        left_out=[str(path) for path in pairs.left_out],
        with_itself=pairs.with_itself,
    )


def _against(
    judged: Labels, graded: Graded, columns: Sequence[Column], groups: Mapping[str, str], by: Sequence[str]
) -> dict[str, object]:
    """The fields of `MetricsFile` that compare with labels."""
    truth = np.array([judged.values.get(name, math.nan) for name in graded.names])
    labelled = truth[np.isfinite(truth)]
    counted = Counter(labelled.tolist())
    return {
        "labels": LabelFacts(
            judge=judged.judge,
            pairs=len(labelled),
            unlabelled=len(truth) - len(labelled),
            answers=sum(judged.answers.values()),
            annotators=judged.annotators,
            values={f"{value:g}": counted[value] for value in sorted(counted)},
            spearman_ceiling=spearman_ceiling(labelled),
        ),
        "faithfulness": [faithfulness(column, truth, graded.clusters) for column in columns],
        "misjudged": misjudged(columns, truth, graded.names, MOST_MISJUDGED),
        "ranking": ranking(columns, truth, [groups.get(name) for name in graded.names], graded.clusters, by)
        if by
        else None,
        "method": METHOD,
    }


def _estimate(scores: Scores) -> Estimate:
    return Estimate(value=_number(float(scores.values[0])), reason=scores.reasons[0])


def _shared_reason(scores: Scores) -> str | None:
    """The one reason why nothing was measured; None if anything was, or the reasons differ."""
    reasons = set(scores.reasons)
    return reasons.pop() if len(reasons) == 1 else None


def _number(value: float) -> float | None:
    return rounded(value) if math.isfinite(value) else None
