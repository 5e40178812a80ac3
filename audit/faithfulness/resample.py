"""Correlations of many bootstrap samples at once: a sample is a count for each pair.

Each function equals what scipy or scikit-learn say of the sample written out, pair by repeated pair; the
tests hold them to it. Rows are samples, columns are pairs.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.float64]

_CELLS = 4_000_000
"""Numbers in one block of samples, which bounds the memory."""

_BLOCK = 512
_ROUNDING = 1e-24


def draws(clusters: NDArray[np.int64], resamples: int, rng: np.random.Generator) -> Iterator[Counts]:
    """Bootstrap samples of whole clusters, with replacement, in blocks ``(r, N)`` of counts.

    Args:
        clusters: the cluster of each pair, from 0, ``(N,)``.
        resamples: samples over all blocks.
        rng: what draws them.
    """
    number = int(clusters.max()) + 1
    block = max(1, min(resamples, _CELLS // max(len(clusters), number)))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.multinomial(number, np.full(number, 1 / number), size=size)
        yield drawn[:, clusters].astype(np.float64)


def midranks(values: Floats, counts: Counts) -> Floats:
    """Ranks from 1 within each sample, ties by their mean rank, ``(r, N)``.

    The rank of a pair that a sample lacks is that between its neighbours; its count is 0 wherever it is used.
    """
    group = _groups(values)
    sizes = _by_group(counts, group)
    middle: Floats = np.cumsum(sizes, axis=1) - (sizes - 1) / 2
    return middle[:, group]


def pearson(x: Floats, y: Floats, counts: Counts) -> Floats:
    """Pearson's r of each sample, ``(r,)``; NaN where one side is constant.

    ``x`` and ``y`` are ``(N,)``, or ``(r, N)`` where they differ by sample.
    """
    (dx, vx), (dy, vy) = _centred(x, counts), _centred(y, counts)
    return _ratio((counts * dx * dy).sum(1), np.sqrt(vx * vy))


def spearman(x: Floats, y: Floats, counts: Counts) -> Floats:
    """Spearman's rho of each sample, ``(r,)``."""
    return pearson(midranks(x, counts), midranks(y, counts), counts)


def kendall(x: Floats, y: Floats, counts: Counts) -> Floats:
    """Kendall's tau-b of each sample, ``(r,)``. Time grows with r N^2."""
    total = counts.sum(1)
    agreement = np.zeros(len(counts))
    short = counts.astype(np.float32)  # exact: every sum below is a whole number of at most N
    for start in range(0, len(x), _BLOCK):
        rows = slice(start, start + _BLOCK)
        signs = np.sign(x[rows, None] - x[None]) * np.sign(y[rows, None] - y[None])
        agreement += (counts[:, rows] * (short @ signs.T.astype(np.float32))).sum(1)
    untied = [total**2 - (_by_group(counts, _groups(side)) ** 2).sum(1) for side in (x, y)]
    return _ratio(agreement, np.sqrt(untied[0] * untied[1]))


def auc(x: Floats, positive: NDArray[np.bool_], counts: Counts) -> Floats:
    """Area under the ROC curve of each sample, ``(r,)``; NaN where it lacks one of the two classes."""
    ranks = midranks(x, counts)
    hits, misses = counts[:, positive].sum(1), counts[:, ~positive].sum(1)
    wins = (counts * ranks)[:, positive].sum(1) - hits * (hits + 1) / 2
    return _ratio(wins, hits * misses)


def _centred(values: Floats, counts: Counts) -> tuple[Floats, Floats]:
    """Differences from each sample's mean, and their sum of squares, 0 where only rounding is left."""
    away = values - (counts * values).sum(1, keepdims=True) / counts.sum(1, keepdims=True)
    squares = (counts * away * away).sum(1)
    return away, np.where(squares > _ROUNDING * (counts * values * values).sum(1), squares, 0)


def _groups(values: Floats) -> NDArray[np.int64]:
    inverse: NDArray[np.int64] = np.unique(values, return_inverse=True)[1]
    return inverse


def _by_group(counts: Counts, group: NDArray[np.int64]) -> Counts:
    """Counts summed over equal values, by value, ``(r, G)``."""
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(group[order]) > 0])
    return np.add.reduceat(counts[:, order], starts, axis=1)


def _ratio(top: Floats, bottom: Floats) -> Floats:
    result: Floats = np.divide(top, bottom, out=np.full(len(top), np.nan), where=bottom > 0)
    return result
