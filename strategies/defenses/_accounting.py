"""Epsilon of composed noise mechanisms, by dp-accounting's privacy loss distributions: upper bounds."""

import math
from functools import lru_cache
from typing import Any

_LARGEST_MEAN = 400.0  # of a Gaussian's composed privacy loss; beyond, its distribution no longer fits

_LARGEST_SUM = 4000.0  # of the epsilons of Laplace mechanisms; the same


@lru_cache(maxsize=256)
def gaussian_epsilon(ratio: float, rounds: int, delta: float) -> float:
    """Epsilon of ``rounds`` adaptively composed Gaussian mechanisms, an upper bound.

    Args:
        ratio: noise standard deviation over L2 sensitivity, positive.
        rounds: number of mechanisms, at least 0.
        delta: in (0, 1).

    Raises:
        ValueError: an argument is out of range.
    """
    _check(ratio, rounds, delta)
    mean = math.sqrt(rounds) / ratio
    if rounds == 0 or mean > _LARGEST_MEAN:
        return math.inf if rounds else 0.0  # an upper bound as good as any: epsilon would be over 80,000
    # slow to import, and only a guarantee needs it
    from dp_accounting import GaussianDpEvent

    # A wider grid for a larger loss keeps the number of cells bounded; rounding is always upwards.
    return _epsilon(GaussianDpEvent(ratio), rounds, delta, 1e-4 * max(1.0, mean * mean / 20))


@lru_cache(maxsize=256)
def laplace_epsilon(ratio: float, rounds: int, delta: float) -> float:
    """Epsilon of ``rounds`` adaptively composed Laplace mechanisms, an upper bound.

    One of them is ``1 / ratio`` at any delta, and all together at most the sum of these.

    Args:
        ratio: scale of the noise over L1 sensitivity, positive.
        rounds: number of mechanisms, at least 0.
        delta: in (0, 1).

    Raises:
        ValueError: an argument is out of range.
    """
    _check(ratio, rounds, delta)
    total = rounds / ratio
    if rounds == 0 or total > _LARGEST_SUM:
        return total  # pure composition
    from dp_accounting import LaplaceDpEvent

    return min(total, _epsilon(LaplaceDpEvent(ratio), rounds, delta, 1e-4 * max(1.0, total / 20)))


def _check(ratio: float, rounds: int, delta: float) -> None:
    if ratio <= 0 or rounds < 0 or not 0 < delta < 1:
        raise ValueError(
            f"expected ratio > 0, rounds >= 0 and 0 < delta < 1, got {ratio}, {rounds} and {delta}"
        )


def _epsilon(event: Any, rounds: int, delta: float, interval: float) -> float:
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(value_discretization_interval=interval)
    accountant.compose(event, rounds)
    return float(accountant.get_epsilon(delta))
