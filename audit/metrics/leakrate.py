"""The share of images that leaked, with an interval that knows that one client's images are alike."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from fl_audit.core.seeding import numpy_generator

LEVEL = 0.95
RESAMPLES = 10_000


@dataclass(frozen=True)
class LeakRate:
    """Share of the scored images that are recognisable.

    Attributes:
        rate: in [0, 1]; NaN if nothing was scored.
        low: lower end of the 95% interval; NaN if nothing was scored.
        high: upper end.
        n: images scored, the denominator.
        unscored: images left out of it, because they could not be graded.
        method: how the interval was made.
    """

    rate: float
    low: float
    high: float
    n: int
    unscored: int
    method: str


def leak_rate(recognisable: Sequence[bool | None], clients: Sequence[int], seed: int) -> LeakRate:
    """Share of recognisable images with a 95% interval.

    With several clients: percentile bootstrap that draws clients, then images of each drawn client, both
    with replacement (Davison and Hinkley, "Bootstrap Methods", 1997, section 3.8), widened to the Wilson
    interval where that is wider, since a bootstrap of equal outcomes has no width at all. With one client:
    Wilson (1927) over its images, which takes them for independent.

    Args:
        recognisable: for each image the verdict; None where it is unscored.
        clients: for each image the client it belongs to.
        seed: run seed.

    Raises:
        ValueError: the two differ in length.
    """
    if len(recognisable) != len(clients):
        raise ValueError(
            f"expected one client for each of {len(recognisable)} verdicts, got {len(clients)} clients"
        )
    counts: dict[int, list[int]] = {}
    for verdict, client in zip(recognisable, clients, strict=True):
        if verdict is not None:
            pair = counts.setdefault(client, [0, 0])
            pair[0] += int(verdict)
            pair[1] += 1
    hits, sizes = (np.array([pair[i] for pair in counts.values()], dtype=np.int64) for i in (0, 1))
    n = int(sizes.sum())
    unscored = len(recognisable) - n
    if n == 0:
        return LeakRate(math.nan, math.nan, math.nan, 0, unscored, "no image was scored")
    total = int(hits.sum())
    wilson = binomtest(total, n).proportion_ci(confidence_level=LEVEL, method="wilson")
    low, high = float(wilson.low), float(wilson.high)
    if len(sizes) == 1:
        return LeakRate(total / n, low, high, n, unscored, "Wilson over images (one client)")
    below, above = _bootstrap(hits, sizes, numpy_generator(seed, "leak-rate"))
    method = f"bootstrap over {len(sizes)} clients, then images; not narrower than Wilson"
    return LeakRate(total / n, min(low, below), max(high, above), n, unscored, method)


def _bootstrap(hits: np.ndarray, sizes: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    drawn = rng.integers(len(sizes), size=(RESAMPLES, len(sizes)))
    # Drawing a client's images with replacement gives a binomial number of recognisable ones.
    found = rng.binomial(sizes[drawn], (hits / sizes)[drawn])
    rates = found.sum(1) / sizes[drawn].sum(1)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(rates, [tail, 1 - tail])
    return float(low), float(high)
