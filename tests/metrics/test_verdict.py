"""The rule of recognisability, the leak rate and the negative control."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from fl_audit.metrics import THRESHOLD, RecognisabilityRule, leak_rate, negative_guesses
from fl_audit.semsim import packaged


def test_the_rule_is_the_calibrated_probability_at_six_tenths() -> None:
    rule, calibration = RecognisabilityRule(), packaged().calibration
    border = (calibration.intercept - math.log(1.5)) / calibration.slope  # odds of three to two
    distances = torch.tensor([0.0, border - 0.01, border + 0.01, 100.0, math.nan], dtype=torch.float64)
    found = rule.probability({"semsim": distances})
    for distance, probability in zip(distances.tolist()[:4], found.tolist()[:4], strict=True):
        odds = calibration.intercept - calibration.slope * distance
        assert probability == pytest.approx(1 / (1 + math.exp(-odds)), abs=1e-9)
    assert math.isnan(found[4])
    assert rule.judge({"semsim": distances}).tolist() == [True, True, False, False, False]
    assert rule.threshold == THRESHOLD == 0.6


def test_what_a_guess_reaches_is_not_recognised() -> None:
    calibration = packaged().calibration
    guesses = torch.linspace(
        0.5, 1.5, 101, dtype=torch.float64
    )  # a data set whose images resemble one another
    rule = RecognisabilityRule(torch.cat([guesses, torch.tensor([math.nan])]))
    level = float(calibration.probability(torch.tensor(0.55)))  # 95% of the guesses are at 0.55 or farther
    assert rule.threshold == pytest.approx(level, abs=1e-3)
    assert rule.judge({"semsim": torch.tensor([0.3, 0.54, 0.56, 1.0])}).tolist() == [True, True, False, False]
    same = RecognisabilityRule(torch.full((9,), 0.75, dtype=torch.float64))
    assert same.judge({"semsim": torch.tensor([0.75, 0.7499], dtype=torch.float64)}).tolist() == [False, True]
    assert RecognisabilityRule(torch.full((3,), math.nan)).threshold == THRESHOLD
    assert RecognisabilityRule(torch.full((3,), 50.0)).threshold == THRESHOLD


def test_the_rule_says_what_it_rests_on() -> None:
    with pytest.raises(ValueError, match="needs semsim, got mse"):
        RecognisabilityRule().judge({"mse": torch.ones(1)})
    words = RecognisabilityRule().description
    assert packaged().sha256 in words
    assert "not from people" in words
    assert words.count("MODEL_CARD.md") == 1


def wilson(hits: int, n: int) -> tuple[float, float]:
    z = norm.ppf(0.975)
    centre = (hits + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * math.sqrt(hits * (n - hits) / n + z**2 / 4)
    return centre - half, centre + half


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (3, 7), (10, 10)])
def test_one_client_gets_wilsons_interval(hits: int, n: int) -> None:
    rate = leak_rate([True] * hits + [False] * (n - hits), [(4, number) for number in range(n)], seed=0)
    assert (rate.low, rate.high) == pytest.approx(wilson(hits, n), abs=1e-9)
    assert rate.rate == hits / n
    assert rate.n == n
    assert "Wilson" in rate.method


def updates_of(*clients: int) -> list[tuple[int, int]]:
    """Client and round of images that came in an update each."""
    return [(client, number) for number, client in enumerate(clients)]


def test_clients_that_differ_widen_the_interval() -> None:
    updates = updates_of(*sorted([0, 1, 2, 3] * 10))
    same = leak_rate([True, False] * 20, updates, seed=0)
    apart = leak_rate([True] * 20 + [False] * 20, updates, seed=0)
    assert same.rate == apart.rate == 0.5
    assert apart.high - apart.low > 1.5 * (same.high - same.low)
    assert "4 clients" in apart.method


def test_equal_outcomes_do_not_make_certainty() -> None:
    none = leak_rate([False] * 12, updates_of(*[0, 1, 2, 3] * 3), seed=0)
    assert none.low == pytest.approx(0)
    assert none.high == pytest.approx(wilson(0, 12)[1])


def test_the_bootstrap_is_that_of_a_plain_loop() -> None:
    """Clients, then their updates, whose images stay together."""
    rng = np.random.default_rng(0)
    clients = [
        [[True] * 9 + [False], [True] * 3],
        [[True] * 2 + [False] * 4],
        [[False] * 8, [False], [True, False]],
        [[True] * 3, [False] * 9],
    ]
    rates = []
    for _ in range(4000):
        drawn: list[bool] = []
        for client in rng.integers(len(clients), size=len(clients)):
            for update in rng.integers(len(clients[client]), size=len(clients[client])):
                drawn += clients[client][update]
        rates.append(np.mean(drawn))
    expected = np.quantile(rates, [0.025, 0.975])
    images = [
        (verdict, (client, number))
        for client, held in enumerate(clients)
        for number, update in enumerate(held)
        for verdict in update
    ]
    images = [images[place] for place in rng.permutation(len(images))]  # in any order
    verdicts, updates = [verdict for verdict, _ in images], [update for _, update in images]
    rate = leak_rate(verdicts, updates, seed=0)
    assert (rate.low, rate.high) == pytest.approx(expected, abs=0.03)
    assert rate == leak_rate(verdicts, updates, seed=0)


def test_unscored_images_are_counted_and_left_out() -> None:
    rate = leak_rate([True, None, False, None], updates_of(0, 0, 1, 2), seed=0)
    assert (rate.rate, rate.n, rate.unscored) == (0.5, 2, 2)
    nothing = leak_rate([None, None], updates_of(0, 1), seed=0)
    assert math.isnan(nothing.rate)
    assert math.isnan(nothing.low)
    assert (nothing.n, nothing.unscored) == (0, 2)
    assert leak_rate([], [], seed=0).n == 0
    with pytest.raises(ValueError, match="one update for each"):
        leak_rate([True], [], seed=0)


def pool() -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.rand(30, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return images, torch.arange(30) % 3


def test_guesses() -> None:
    images, labels = pool()
    originals = torch.cat([images[:2], torch.rand(2, 3, 8, 8)])
    guesses = negative_guesses(originals, torch.tensor([0, 1, 2, 7]), images, labels, seed=0)
    assert list(guesses) == ["mean-image", "same-class"]
    assert torch.allclose(guesses["mean-image"], images.mean(0).expand(4, -1, -1, -1))
    drawn = [[row for row in range(30) if torch.equal(images[row], guess)] for guess in guesses["same-class"]]
    assert [int(labels[rows[0]]) for rows in drawn[:3]] == [0, 1, 2]
    assert drawn[0] != [0]
    assert drawn[1] != [1]
    assert drawn[3] == []
    assert bool(guesses["same-class"][3].isnan().all())
    again = negative_guesses(originals, torch.tensor([0, 1, 2, 7]), images, labels, seed=0)
    assert torch.equal(again["same-class"][:3], guesses["same-class"][:3])


def test_the_original_is_never_its_own_guess() -> None:
    images, labels = pool()
    for seed in range(30):
        guess = negative_guesses(images[:1], labels[:1], images[[0, 3]], labels[[0, 3]], seed)["same-class"]
        assert torch.equal(guess[0], images[3])


def test_bad_pools() -> None:
    images, labels = pool()
    with pytest.raises(ValueError, match="at least one image"):
        negative_guesses(images, labels, images[:0], labels[:0], 0)
    with pytest.raises(ValueError, match="one label an image"):
        negative_guesses(images, labels[:3], images, labels, 0)
