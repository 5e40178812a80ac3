"""The picture page of ``fl-audit metrics``: self-contained HTML in the style of the audit's reports."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from fl_audit.core.images import to_uint8
from fl_audit.core.seeding import numpy_generator
from fl_audit.faithfulness.folders import read_pair
from fl_audit.faithfulness.result import Estimate, Faithfulness, MetricsFile
from fl_audit.faithfulness.study import Study
from fl_audit.reports.page import render_page
from fl_audit.reports.pictures import Picture
from fl_audit.reports.scatter import Axis, Dot, scatter
from fl_audit.reports.schema import MetricFacts
from fl_audit.reports.words import number

LARGEST = 256
"""Pixels: larger pictures are scaled down for the page."""

MOST_DOTS = 1500
JITTER = 0.035
"""Labels take few values: dots are moved by up to this much, so that they do not hide one another."""


@dataclass(frozen=True)
class Shown:
    """One pair on the page: its pictures, and what is said of it."""

    name: str
    original: Picture
    reconstruction: Picture
    label: float | None
    scores: list[tuple[str, float | None]]
    words: str


def render_study(study: Study) -> str:
    """The page as text. Reads the images of the pairs that it shows."""
    result = study.result
    measured = [fact for fact in result.metrics if fact.name in result.agreement]
    album = _Album(study, measured)
    names = {fact.name: fact.label for fact in result.metrics}
    return render_page(
        "metrics.html.j2",
        package="fl_audit.faithfulness",
        r=result,
        names=names,
        measured=measured,
        unmeasured=_unmeasured(result),
        best=_best(result),
        correlation=_correlation,
        charts=_charts(study, measured),
        disagreement=[
            album.show(entry.pair, _spread(entry.percentiles, names)) for entry in result.disagreement
        ],
        misjudged=[
            (
                fact,
                [
                    album.show(entry.pair, _misjudged(entry.percentile, entry.label_percentile))
                    for entry in result.misjudged
                    if entry.metric == fact.name
                ],
            )
            for fact in measured
            if any(entry.metric == fact.name for entry in result.misjudged)
        ],
    )


class _Album:
    """Pictures for the page, each pair decoded and embedded once."""

    def __init__(self, study: Study, measured: Sequence[MetricFacts]) -> None:
        self._study = study
        self._measured = measured
        self._pictures: dict[str, tuple[Picture, Picture]] = {}

    def show(self, name: str, words: str) -> Shown:
        if name not in self._pictures:
            original, reconstruction = read_pair(self._study.files[name])
            self._pictures[name] = (_picture(original), _picture(reconstruction))
        scores = self._study.result.pairs[name]
        labels = self._study.labels
        return Shown(
            name,
            *self._pictures[name],
            None if labels is None else labels.values.get(name),
            [(fact.label, scores[fact.name]) for fact in self._measured],
            words,
        )


def _picture(image: Tensor) -> Picture:
    pixels = Image.fromarray(to_uint8(image.nan_to_num()))
    pixels.thumbnail((LARGEST, LARGEST))
    buffer = io.BytesIO()
    pixels.save(buffer, format="PNG")
    uri = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    return Picture(uri, pixels.width, pixels.height)


def _charts(study: Study, measured: Sequence[MetricFacts]) -> list[tuple[MetricFacts, Markup]]:
    """A scatter plot of every metric against the labels; none without labels."""
    labels = study.labels
    if labels is None:
        return []
    names = sorted(labels.values)
    rng = numpy_generator(0, "scatter")
    if len(names) > MOST_DOTS:
        names = sorted(rng.choice(names, size=MOST_DOTS, replace=False).tolist())
    lift = rng.uniform(-JITTER, JITTER, size=len(names))
    charts = []
    for fact in measured:
        scored = [
            (name, study.result.pairs[name][fact.name], labels.values[name] + float(up))
            for name, up in zip(names, lift, strict=True)
        ]
        dots = [
            Dot(value, y, f"{name}: {fact.label} {number(value)}, label {labels.values[name]:g}", 1)
            for name, value, y in scored
            if value is not None
        ]
        if dots:
            x = Axis(f"{fact.label} ({fact.better} = closer)", *_reach(dot.x for dot in dots))
            y = Axis("label", 0, 1, (0, 0.5, 1))
            charts.append((fact, scatter(dots, x, y, title=f"{fact.label} against the label of each pair")))
    return charts


def _reach(values: Iterable[float]) -> tuple[float, float]:
    """The range of the values."""
    found = np.fromiter(values, dtype=np.float64)
    return float(found.min()), float(found.max())


def _best(result: MetricsFile) -> Faithfulness | None:
    """The metric with the highest Spearman; None without labels."""
    known = [
        (entry.spearman.value, entry) for entry in result.faithfulness if entry.spearman.value is not None
    ]
    return max(known, key=lambda item: item[0])[1] if known else None


def _unmeasured(result: MetricsFile) -> list[tuple[str, str, int]]:
    """Metric, reason and how many pairs it holds for."""
    counted: dict[tuple[str, str], int] = {}
    for reasons in result.unmeasured.values():
        for metric, reason in reasons.items():
            counted[metric, reason] = counted.get((metric, reason), 0) + 1
    return [(metric, reason, amount) for (metric, reason), amount in counted.items()]


def _correlation(estimate: Estimate) -> str:
    """A correlation with its interval, or why there is none."""
    return str(estimate) if estimate.value is not None else estimate.reason or ""


def _spread(percentiles: Mapping[str, float], names: Mapping[str, str]) -> str:
    closest = max(percentiles, key=lambda name: percentiles[name])
    farthest = min(percentiles, key=lambda name: percentiles[name])
    return (
        f"closer than {percentiles[closest]:.0%} of the pairs by {names[closest]}, "
        f"than {percentiles[farthest]:.0%} by {names[farthest]}"
    )


def _misjudged(percentile: float, label: float) -> str:
    return f"closer than {percentile:.0%} of the pairs, by its label than {label:.0%}"
