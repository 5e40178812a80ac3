"""Groups of pairs, e.g. models, ranked by each metric and by the labels: is the same one the worst?"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fl_audit.core.seeding import numpy_generator
from fl_audit.faithfulness import resample
from fl_audit.faithfulness.compare import CONSTANT, FEWEST, RESAMPLES, Column, interval
from fl_audit.faithfulness.resample import Counts, Floats
from fl_audit.faithfulness.result import Estimate, Group, Ranking
from fl_audit.reports.schema import rounded


def ranking(
    columns: Sequence[Column],
    labels: Floats,
    groups: Sequence[str | None],
    clusters: NDArray[np.int64],
    by: Sequence[str],
    *,
    resamples: int = RESAMPLES,
) -> Ranking:
    """Groups ranked by their mean score and by their mean label, on the labelled pairs.

    Args:
        columns: the metrics.
        labels: ``(N,)``; NaN where there is none.
        groups: the group of each pair; None where it has no label.
        clusters: which original each pair has, ``(N,)``.
        by: what makes the groups.
        resamples: bootstrap samples of the pairs; one that misses a group is left out.
    """
    rows = np.flatnonzero(np.isfinite(labels))
    group_of = [str(groups[row]) for row in rows.tolist()]
    names = sorted(set(group_of))
    member = np.array([names.index(name) for name in group_of])
    owner = np.unique(clusters[rows], return_inverse=True)[1]
    one_hot = np.eye(len(names))[member]
    whole = np.ones((1, len(rows)))
    truth = _means(labels[rows], one_hot, whole)[0]
    means = {column.name: _means(column.closeness[rows], one_hot, whole)[0] for column in columns}
    spearman, kendall = {}, {}
    for column in columns:
        usable = np.isfinite(means[column.name])
        if usable.sum() < FEWEST:
            reason = f"measured for {usable.sum()} groups; at least {FEWEST} are needed"
            spearman[column.name] = kendall[column.name] = Estimate(reason=reason)
            continue
        x, y = means[column.name][usable], truth[usable]
        if np.ptp(x) == 0 or np.ptp(y) == 0:
            spearman[column.name] = kendall[column.name] = Estimate(reason=CONSTANT)
            continue
        rhos, taus = [], []
        for counts in resample.draws(owner, resamples, numpy_generator(0, "ranking")):
            sampled = _means(column.closeness[rows], one_hot, counts)[:, usable]
            judged = _means(labels[rows], one_hot, counts)[:, usable]
            rhos.append(_row_pearson(_row_ranks(sampled), _row_ranks(judged)))
            taus.append(_row_kendall(sampled, judged))
        spearman[column.name] = interval(float(stats.spearmanr(x, y).statistic), rhos)
        kendall[column.name] = interval(float(stats.kendalltau(x, y).statistic), taus)
    return Ranking(
        by=list(by),
        groups=_groups(columns, names, member, truth, means),
        spearman=spearman,
        kendall=kendall,
    )


def _groups(
    columns: Sequence[Column],
    names: Sequence[str],
    member: NDArray[np.int64],
    truth: Floats,
    means: Mapping[str, Floats],
) -> list[Group]:
    places = {name: _places(values) for name, values in means.items()}
    label_places = _places(truth)
    found = [
        Group(
            group=name,
            pairs=int((member == index).sum()),
            label=rounded(float(truth[index])),
            label_rank=float(label_places[index]),
            scores={column.name: _number(column.sign * means[column.name][index]) for column in columns},
            ranks={column.name: _number(places[column.name][index]) for column in columns},
        )
        for index, name in enumerate(names)
    ]
    return sorted(found, key=lambda group: (group.label_rank, group.group))


def _places(values: Floats) -> Floats:
    """Ranks from 1 for the highest, ties by their mean; NaN where there is no value."""
    result = np.full(len(values), np.nan)
    measured = np.isfinite(values)
    result[measured] = stats.rankdata(-values[measured])
    return result


def _means(values: Floats, one_hot: Floats, counts: Counts) -> Floats:
    """Mean of each group in each sample, ``(r, G)``, over measured values; NaN where there is none."""
    measured = np.isfinite(values)
    amount = (counts * measured) @ one_hot
    total = (counts * np.where(measured, values, 0)) @ one_hot
    means: Floats = np.divide(total, amount, out=np.full(total.shape, np.nan), where=amount > 0)
    return means


def _row_ranks(values: Floats) -> Floats:
    return np.asarray(stats.rankdata(values, axis=1, nan_policy="propagate"), dtype=np.float64)


def _row_pearson(x: Floats, y: Floats) -> Floats:
    return resample.pearson(x, y, np.ones(x.shape))


def _row_kendall(x: Floats, y: Floats) -> Floats:
    agreed = np.zeros(len(x))
    untied = [np.zeros(len(x)), np.zeros(len(x))]
    for column in range(x.shape[1]):
        signs = [np.sign(side - side[:, [column]]) for side in (x, y)]
        agreed += (signs[0] * signs[1]).sum(1)
        for total, sign in zip(untied, signs, strict=True):
            total += np.abs(sign).sum(1)
    spread = np.sqrt(untied[0] * untied[1])
    taus: Floats = np.divide(agreed, spread, out=np.full(len(x), np.nan), where=spread > 0)
    return taus


def _number(value: float) -> float | None:
    return rounded(float(value)) if np.isfinite(value) else None
