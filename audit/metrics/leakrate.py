"""The share of images that leaked, with an interval that knows that the images of one update are alike.

The images of one update are attacked together: they come out together or not at all far more often than
images of different updates do. So an interval that counts each image for itself is too narrow.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, t

from fl_audit.core.seeding import numpy_generator

LEVEL = 0.95
RESAMPLES = 10_000

_AT_ONCE = 1_000_000  # updates drawn in one go of the bootstrap
_Z = float(norm.ppf((1 + LEVEL) / 2))


@dataclass(frozen=True)
class LeakRate:
    """Share of the scored images that are recognisable.

    Attributes:
        rate: in [0, 1]; NaN if nothing was scored.
        low: lower end of the 95% interval; NaN if nothing was scored.
        high: upper end.
        n: images scored, the denominator.
        unscored: images left out of it, because they could not be graded.
        independent: how many independent images the scored ones count for, see `independent_images`.
        method: how the interval was made.
    """

    rate: float
    low: float
    high: float
    n: int
    unscored: int
    independent: float
    method: str


def leak_rate(recognisable: Sequence[bool | None], updates: Sequence[tuple[int, int]], seed: int) -> LeakRate:
    """Share of recognisable images with a 95% interval.

    The interval is `wilson` of as many images as the scored ones count for (`independent_images`). With
    several clients it is widened to a percentile bootstrap that draws clients, then updates of each drawn
    client, both with replacement (Davison and Hinkley, "Bootstrap Methods", 1997, section 3.8), where that is
    wider: so clients may differ, too.

    Args:
        recognisable: for each image the verdict; None where it is unscored.
        updates: for each image the client and the round of its update.
        seed: run seed.

    Raises:
        ValueError: the two differ in length.
    """
    if len(recognisable) != len(updates):
        raise ValueError(
            f"expected one update for each of {len(recognisable)} verdicts, got {len(updates)} updates"
        )
    counts: dict[tuple[int, int], list[int]] = {}
    for verdict, update in zip(recognisable, updates, strict=True):
        if verdict is not None:
            pair = counts.setdefault(update, [0, 0])
            pair[0] += int(verdict)
            pair[1] += 1
    hits, sizes = (np.array([pair[i] for pair in counts.values()], dtype=np.int64) for i in (0, 1))
    n = int(sizes.sum())
    unscored = len(recognisable) - n
    if n == 0:
        return LeakRate(math.nan, math.nan, math.nan, 0, unscored, 0.0, "no image was scored")
    rate, independent = int(hits.sum()) / n, independent_images(hits, sizes)
    low, high = wilson(rate, independent)
    counted = f"{n} images of {len(sizes)} updates count as {independent:.1f}"
    method = f"Wilson, where {counted}, since those of one update are alike"
    clients = sorted({client for client, _ in counts})
    if len(clients) > 1:
        places = np.array([clients.index(client) for client, _ in counts])
        below, above = _bootstrap(hits, sizes, places, numpy_generator(seed, "leak-rate"))
        low, high = min(low, below), max(high, above)
        method = f"bootstrap over {len(clients)} clients, then their updates; not narrower than {method}"
    return LeakRate(rate, low, high, n, unscored, independent, method)


def independent_images(hits: np.ndarray, sizes: np.ndarray) -> float:
    """How many independent images would tell as much of the rate as these, which came in updates.

    The number of images over the design effect: the variance of the rate between updates (linearised ratio,
    K - 1 degrees of freedom) over that of independent images, corrected for few updates by the quantiles of
    Student's t (Korn and Graubard, "Confidence intervals for proportions with small expected number of
    positive counts estimated from survey data", Survey Methodology 24, 1998). It is kept between the number
    of images and Kish's number of updates, ``n^2 / sum(sizes^2)``, which is what remains where all images of
    an update come out alike. We take that number, too, where all images of all updates came out alike:
    nothing then shows how alike images of one update are.

    Args:
        hits: recognisable images of each update, int ``(K,)``, K at least 1.
        sizes: scored images of each update, int ``(K,)``, each at least 1.
    """
    n, count = int(sizes.sum()), len(sizes)
    rate, least = hits.sum() / n, n**2 / float(np.square(sizes.astype(np.float64)).sum())
    if not 0 < rate < 1 or count == 1:
        return least
    between = count / (count - 1) * float(np.square(hits - rate * sizes).sum()) / n**2
    effect = between / (rate * (1 - rate) / n) * (float(t.ppf((1 + LEVEL) / 2, count - 1)) / _Z) ** 2
    return float(np.clip(n / max(effect, 1.0), least, n))


def wilson(rate: float, n: float) -> tuple[float, float]:
    """The 95% interval of Wilson (1927) for a share ``rate`` of ``n`` independent images, n above 0."""
    centre = rate + _Z**2 / (2 * n)
    half = _Z * math.sqrt(rate * (1 - rate) / n + _Z**2 / (4 * n**2))
    low, high = ((centre + way * half) / (1 + _Z**2 / n) for way in (-1, 1))
    return 0.0 if rate == 0 else max(low, 0.0), 1.0 if rate == 1 else min(high, 1.0)


def _bootstrap(
    hits: np.ndarray, sizes: np.ndarray, clients: np.ndarray, rng: np.random.Generator
) -> tuple[float, float]:
    """Ends of the interval; ``clients`` ``(K,)`` numbers the client of each update from 0, without a gap."""
    order = np.argsort(clients, kind="stable")
    hits, sizes = hits[order], sizes[order]
    held = np.bincount(clients)  # updates of each client
    first = np.cumsum(held) - held
    most = int(held.max())
    rates = []
    for resamples in _parts(RESAMPLES, max(_AT_ONCE // (len(held) * most), 1)):
        drawn = rng.integers(len(held), size=(resamples, len(held)))
        places = (rng.random((*drawn.shape, most)) * held[drawn][..., None]).astype(np.int64)
        updates, used = first[drawn][..., None] + places, np.arange(most) < held[drawn][..., None]
        found, tried = ((values[updates] * used).sum((1, 2)) for values in (hits, sizes))
        rates.append(found / tried)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.concatenate(rates), [tail, 1 - tail])
    return float(low), float(high)


def _parts(whole: int, most: int) -> list[int]:
    return [min(most, whole - start) for start in range(0, whole, most)]
