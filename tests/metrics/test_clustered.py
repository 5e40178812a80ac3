"""Images of one update are alike: what the interval of the leak rate makes of that."""

import numpy as np
import pytest

from fl_audit.metrics import leak_rate, wilson
from fl_audit.metrics.leakrate import independent_images


def counted(*updates: tuple[int, int]) -> float:
    """Independent images of updates, each given as recognised and scored."""
    return independent_images(np.array([hit for hit, _ in updates]), np.array([of for _, of in updates]))


def test_images_of_updates_of_their_own_count_one_by_one() -> None:
    assert counted(*[(1, 1)] * 3, *[(0, 1)] * 9) == 12
    assert counted(*[(0, 1)] * 64) == 64


def test_updates_that_come_out_whole_or_not_at_all_count_once() -> None:
    assert counted(*[(6, 6)] * 3, *[(0, 6)] * 7) == pytest.approx(10)
    # Of unequal sizes Kish's number: (2 + 2 + 8)^2 / (4 + 4 + 64).
    assert counted((2, 2), (0, 2), (8, 8)) == pytest.approx(144 / 72)


def test_where_nothing_shows_how_alike_they_are_an_update_counts_once() -> None:
    assert counted((0, 64)) == counted((64, 64)) == counted((30, 64)) == 1
    assert counted(*[(0, 8)] * 5) == pytest.approx(5)
    low, high = wilson(0, counted((0, 64)))
    assert low == 0
    assert high == pytest.approx(1.959964**2 / (1 + 1.959964**2), abs=1e-6)  # by hand: 79%, not 6%


def test_the_design_effect_by_hand() -> None:
    # Rate 1/2; squared deviations add up to 4 over 5 updates of 4: 5/4 * 4 / 400 is exactly the variance of
    # 20 independent images. What is left is the square of Student's t of 4 degrees of freedom over z, which
    # tables give as 2.776445 and 1.959964.
    assert counted((3, 4), (3, 4), (1, 4), (1, 4), (2, 4)) == pytest.approx(20 / 2.006698, rel=1e-5)
    # Equal shares in all updates vary less than independent images: they never count for more.
    assert counted(*[(2, 4)] * 6) == 24


@pytest.mark.parametrize(("updates", "likeness"), [(6, 0.9), (12, 0.4), (30, 0.4), (12, 0.02)])
def test_intervals_cover_the_rate_as_often_as_they_say(updates: int, likeness: float) -> None:
    """Simulated updates of six images, their rates beta-distributed about 30%."""
    rng, rate, sum_ = np.random.default_rng(0), 0.3, 1 / likeness - 1
    covered: list[bool] = []
    naive: list[bool] = []
    for _ in range(400):
        hits = rng.binomial(6, rng.beta(rate * sum_, (1 - rate) * sum_, updates))
        found = hits.sum() / (6 * updates)
        for number, kept in ((independent_images(hits, np.full(updates, 6)), covered), (6 * updates, naive)):
            low, high = wilson(found, number)
            kept.append(low <= rate <= high)
    assert 0.93 <= np.mean(covered) <= 0.99
    if likeness > 0.1:
        assert np.mean(naive) < 0.82, "each image counted for itself promises too much"


def test_intervals_cover_the_rate_where_clients_differ() -> None:
    """Simulated clients whose rates spread from 0 to 1; all images of a client are about as easy."""
    rng, covered = np.random.default_rng(0), []
    updates = [(client, number) for client in range(10) for number in range(2) for _ in range(3)]
    for _ in range(60):
        easy = rng.beta(0.6, 1.4, 10)
        rate = leak_rate([bool(rng.random() < easy[client]) for client, _ in updates], updates, seed=0)
        covered.append(rate.low <= 0.3 <= rate.high)
    assert np.mean(covered) >= 0.9
