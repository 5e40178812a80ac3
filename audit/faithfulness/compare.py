"""How far metrics follow labels and one another. Pure: arrays in, figures out.

Scores are turned by the metrics' declared direction first, so that more always means closer to the original.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import roc_auc_score

from fl_audit.core.seeding import numpy_generator
from fl_audit.faithfulness import resample
from fl_audit.faithfulness.resample import Counts, Floats
from fl_audit.faithfulness.result import Disagreement, Estimate, Faithfulness, Misjudged
from fl_audit.reports.schema import rounded

RESAMPLES = 2000
LEVEL = 0.95
FEWEST = 3
"""Pairs below which a correlation is not reported."""

KENDALL_WORK = 1e10
"""Resamples times squared pairs: with more, Kendall's interval comes from fewer resamples."""

METHOD = (
    f"percentile bootstrap, {LEVEL:.0%}, {RESAMPLES} resamples of the pairs; pairs that share an original "
    "are drawn together"
)

CONSTANT = "every value is the same"


@dataclass(frozen=True)
class Column:
    """One metric over all pairs.

    Attributes:
        name: of the metric.
        values: its scores, ``(N,)``; NaN where unmeasured.
        sign: 1 if higher means closer, else -1.
    """

    name: str
    values: Floats
    sign: Literal[1, -1]

    @property
    def closeness(self) -> Floats:
        """The scores, turned so that more is closer."""
        return self.sign * self.values


def faithfulness(
    column: Column, labels: Floats, clusters: NDArray[np.int64], *, resamples: int = RESAMPLES
) -> Faithfulness:
    """One metric against the labels.

    Args:
        column: the metric.
        labels: in [0, 1], ``(N,)``; NaN where there is none.
        clusters: which original each pair has, ``(N,)``; such pairs are drawn together.
        resamples: bootstrap samples.
    """
    rows = np.isfinite(column.closeness) & np.isfinite(labels)
    x, y = column.closeness[rows], labels[rows]
    owner = np.unique(clusters[rows], return_inverse=True)[1]
    decided = y != 0.5
    positive = y[decided] > 0.5
    few = max(100, min(resamples, int(KENDALL_WORK / max(1, len(x)) ** 2)))

    def estimate(
        point: Callable[[], float], sampled: Callable[[Counts], Floats], amount: int = resamples
    ) -> Estimate:
        if len(x) < FEWEST:
            return Estimate(reason=f"measured on {len(x)} labelled pairs; at least {FEWEST} are needed")
        if np.ptp(x) == 0 or np.ptp(y) == 0:
            return Estimate(reason=CONSTANT)
        rng = numpy_generator(0, "faithfulness")  # the same samples for every metric
        return interval(point(), [sampled(counts) for counts in resample.draws(owner, amount, rng)])

    def area() -> Estimate:
        if not decided.any() or positive.all() or not positive.any():
            return Estimate(reason="needs labels above 0.5 and labels below 0.5")
        return estimate(
            lambda: float(roc_auc_score(positive, x[decided])),
            lambda counts: resample.auc(x[decided], positive, counts[:, decided]),
        )

    return Faithfulness(
        metric=column.name,
        pairs=len(x),
        decided=int(decided.sum()),
        spearman=estimate(
            lambda: float(stats.spearmanr(x, y).statistic), lambda counts: resample.spearman(x, y, counts)
        ),
        kendall=estimate(
            lambda: float(stats.kendalltau(x, y).statistic),
            lambda counts: resample.kendall(x, y, counts),
            few,
        ),
        pearson=estimate(
            lambda: float(stats.pearsonr(x, y).statistic), lambda counts: resample.pearson(x, y, counts)
        ),
        auc=area(),
    )


def interval(value: float, samples: Sequence[Floats]) -> Estimate:
    """A value with the central 95% of its bootstrap samples, those left out in which it is undefined."""
    found = np.concatenate(samples)
    found = found[np.isfinite(found)]
    if not len(found):
        return Estimate(value=rounded(value))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return Estimate(value=rounded(value), low=rounded(float(low)), high=rounded(float(high)))


def spearman_ceiling(labels: Floats) -> float:
    """The highest Spearman with tied ``labels`` that values without ties can have."""
    ordered = np.sort(labels)
    return rounded(float(stats.spearmanr(ordered, np.arange(len(ordered))).statistic))


def agreement(columns: Sequence[Column]) -> dict[str, dict[str, float | None]]:
    """Spearman between every two metrics, on the pairs that both measured; None where it is undefined."""
    return {a.name: {b.name: _rho(a.closeness, b.closeness) for b in columns} for a in columns}


def percentiles(values: Floats) -> Floats:
    """Share of the measured values that each one beats, ties counting half; NaN where unmeasured."""
    result = np.full(len(values), np.nan)
    measured = np.isfinite(values)
    if measured.any():
        result[measured] = (stats.rankdata(values[measured]) - 0.5) / measured.sum()
    return result


def disagreements(columns: Sequence[Column], names: Sequence[str], most: int) -> list[Disagreement]:
    """The pairs whose percentiles differ most between metrics that take at least three values."""
    shares = {column.name: percentiles(column.closeness) for column in columns if _ranks(column)}
    found = []
    for row, pair in enumerate(names):
        given = {name: float(share[row]) for name, share in shares.items() if np.isfinite(share[row])}
        if len(given) > 1:
            spread = max(given.values()) - min(given.values())
            rates = {name: rounded(share) for name, share in given.items()}
            found.append(Disagreement(pair=pair, spread=rounded(spread), percentiles=rates))
    return sorted(found, key=lambda entry: (-entry.spread, entry.pair))[:most]


def misjudged(columns: Sequence[Column], labels: Floats, names: Sequence[str], most: int) -> list[Misjudged]:
    """For each metric the pairs it puts highest above their label and lowest below, half of ``most`` each."""
    found = []
    for column in columns:
        rows = np.flatnonzero(np.isfinite(column.closeness) & np.isfinite(labels))
        if not len(rows) or not _ranks(column):
            continue
        share, truth = percentiles(column.closeness[rows]), percentiles(labels[rows])
        order = np.argsort(share - truth, kind="stable")
        half = min(most // 2, len(rows) // 2)
        chosen = [*order[::-1][:half].tolist(), *order[:half].tolist()]
        found += [
            Misjudged(
                pair=names[rows[index]],
                metric=column.name,
                percentile=rounded(float(share[index])),
                label_percentile=rounded(float(truth[index])),
            )
            for index in chosen
        ]
    return found


def _rho(x: Floats, y: Floats) -> float | None:
    both = np.isfinite(x) & np.isfinite(y)
    if both.sum() < FEWEST or np.ptp(x[both]) == 0 or np.ptp(y[both]) == 0:
        return None
    return rounded(float(stats.spearmanr(x[both], y[both]).statistic))


def _ranks(column: Column) -> bool:
    return len(np.unique(column.closeness[np.isfinite(column.closeness)])) >= 3
