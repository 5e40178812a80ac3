"""Correlations and intervals against scipy and scikit-learn on samples written out, and closed forms."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from fl_audit.faithfulness import Column, agreement, faithfulness, ranking, resample
from fl_audit.faithfulness.compare import disagreements, misjudged, percentiles, spearman_ceiling

TOLERANCE = 1e-9

ORACLES: dict[str, Callable[..., float]] = {
    "spearman": lambda x, y: float(stats.spearmanr(x, y).statistic),
    "kendall": lambda x, y: float(stats.kendalltau(x, y).statistic),
    "pearson": lambda x, y: float(stats.pearsonr(x, y).statistic),
}


def scores(n: int, seed: int, *, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    """A metric that follows labels of 0, 0.5 and 1 loosely."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 0.5, 1], size=n)
    values = labels + rng.normal(size=n)
    return (np.round(values) if ties else values), labels


@settings(max_examples=25, deadline=None)
@given(n=st.integers(4, 40), seed=st.integers(0, 10**6), ties=st.booleans())
def test_every_sample_is_what_scipy_says_of_it(n: int, seed: int, ties: bool) -> None:
    x, y = scores(n, seed, ties=ties)
    (counts,) = resample.draws(np.arange(n), 8, np.random.default_rng(seed))
    assert counts.sum(1).tolist() == [n] * 8
    for name, oracle in ORACLES.items():
        found = getattr(resample, name)(x, y, counts)
        for row, value in zip(counts.astype(int), found, strict=True):
            a, b = np.repeat(x, row), np.repeat(y, row)
            if np.ptp(a) == 0 or np.ptp(b) == 0:
                assert np.isnan(value)
            else:
                assert value == pytest.approx(oracle(a, b), abs=TOLERANCE), name


@settings(max_examples=25, deadline=None)
@given(n=st.integers(4, 40), seed=st.integers(0, 10**6), ties=st.booleans())
def test_every_auc_is_what_scikit_learn_says_of_it(n: int, seed: int, ties: bool) -> None:
    x, y = scores(n, seed, ties=ties)
    positive = y > 0.5
    (counts,) = resample.draws(np.arange(n), 8, np.random.default_rng(seed))
    for row, value in zip(counts.astype(int), resample.auc(x, positive, counts), strict=True):
        truth = np.repeat(positive, row)
        if truth.all() or not truth.any():
            assert np.isnan(value)
        else:
            assert value == pytest.approx(roc_auc_score(truth, np.repeat(x, row)), abs=TOLERANCE)


def test_pairs_of_one_original_are_drawn_together() -> None:
    clusters = np.array([0, 0, 1, 1, 1, 2])
    blocks = list(resample.draws(clusters, 50, np.random.default_rng(0)))
    counts = np.concatenate(blocks)
    assert counts.shape == (50, 6)
    assert (counts[:, 0] == counts[:, 1]).all()
    assert (counts[:, 2] == counts[:, 4]).all()
    assert (counts[:, [0, 2, 5]].sum(1) == 3).all()


def test_kendall_is_right_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resample, "_BLOCK", 7)
    x, y = scores(30, 1, ties=True)
    whole = resample.kendall(x, y, np.ones((1, 30)))
    assert whole[0] == pytest.approx(ORACLES["kendall"](x, y), abs=TOLERANCE)


def test_a_metric_is_held_against_labels() -> None:
    x, y = scores(120, 3, ties=False)
    clusters = np.arange(120)
    found = faithfulness(Column("m", x, 1), y, clusters)
    for name, oracle in ORACLES.items():
        estimate = getattr(found, name)
        assert estimate.value == pytest.approx(oracle(x, y), rel=1e-5)
        assert estimate.low < estimate.value < estimate.high
    decided = y != 0.5
    assert found.auc.value == pytest.approx(roc_auc_score(y[decided] > 0.5, x[decided]), rel=1e-5)
    assert (found.pairs, found.decided) == (120, int(decided.sum()))
    turned = faithfulness(Column("m", -x, -1), y, clusters)
    assert turned == found, "the direction is the metric's own and does not change how faithful it is"


def test_the_interval_is_that_of_a_plain_loop() -> None:
    x, y = scores(80, 5, ties=False)
    rng = np.random.default_rng(1)
    rows = rng.integers(80, size=(3000, 80))
    expected = np.quantile([ORACLES["spearman"](x[row], y[row]) for row in rows], [0.025, 0.975])
    found = faithfulness(Column("m", x, 1), y, np.arange(80)).spearman
    assert (found.low, found.high) == pytest.approx(expected, abs=0.02)


def test_pairs_that_share_an_original_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(rng.choice([0.0, 1.0], size=12), 10)
    values = labels + np.repeat(rng.normal(size=12), 10) + 0.01 * rng.normal(size=120)
    alone = faithfulness(Column("m", values, 1), labels, np.arange(120)).spearman
    together = faithfulness(Column("m", values, 1), labels, np.repeat(np.arange(12), 10)).spearman
    assert alone.value == together.value
    widths = [float(e.high or 0) - float(e.low or 0) for e in (alone, together)]
    assert widths[1] > 1.5 * widths[0]


def test_what_cannot_be_said_has_a_reason() -> None:
    labels = np.array([0.0, 1.0, 0.5, 1.0, np.nan])
    flat = faithfulness(Column("m", np.ones(5), 1), labels, np.arange(5))
    assert flat.spearman.value is None
    assert flat.spearman.reason == "every value is the same"
    few = faithfulness(Column("m", np.array([1.0, 2.0, np.nan, np.nan, 3.0]), 1), labels, np.arange(5))
    assert (few.pairs, few.spearman.reason) == (2, "measured on 2 labelled pairs; at least 3 are needed")
    middle = np.array([0.0, 0.5, 0.5, 0.5, 0.2])
    one_sided = faithfulness(Column("m", np.arange(5.0), 1), middle, np.arange(5))
    assert one_sided.spearman.value is not None
    assert one_sided.auc.value is None
    assert one_sided.auc.reason == "needs labels above 0.5 and labels below 0.5"
    unmeasured = faithfulness(Column("m", np.full(5, np.nan), 1), labels, np.arange(5))
    assert unmeasured.pairs == 0
    assert unmeasured.kendall.value is None


def test_no_metric_without_ties_beats_the_ceiling() -> None:
    labels = np.array([0, 0, 0, 0.5, 1, 1])
    best = max(
        ORACLES["spearman"](np.array(order), labels) for order in itertools.permutations(range(len(labels)))
    )
    assert spearman_ceiling(labels) == pytest.approx(best, abs=1e-6)
    assert spearman_ceiling(np.arange(5.0)) == pytest.approx(1)


def test_agreement_turns_signs() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0, np.nan])
    table = agreement([Column("a", x, 1), Column("b", -(x**3), -1), Column("c", np.ones(5), 1)])
    assert table["a"]["b"] == table["a"]["a"] == 1
    assert table["a"]["c"] is None


def test_percentiles() -> None:
    assert percentiles(np.array([3.0, 1.0, np.nan, 1.0, 9.0])).tolist() == pytest.approx(
        [0.625, 0.25, np.nan, 0.25, 0.875], nan_ok=True
    )


def test_the_pairs_that_metrics_disagree_on_come_first() -> None:
    a = np.arange(6.0)
    b = a.copy()
    b[[0, 5]] = b[[5, 0]]
    names = list("uvwxyz")
    found = disagreements(
        [Column("a", a, 1), Column("b", b, 1), Column("binary", (a > 2).astype(float), 1)], names, 2
    )
    assert [entry.pair for entry in found] == ["u", "z"]
    assert found[0].percentiles == {
        "a": pytest.approx(1 / 12, abs=1e-6),
        "b": pytest.approx(11 / 12, abs=1e-6),
    }
    assert found[0].spread == pytest.approx(10 / 12, abs=1e-6)
    labels = np.array([1.0, 0, 0, 1, 1, np.nan])
    wrong = misjudged([Column("a", a, 1)], labels, names, 2)
    assert {entry.pair for entry in wrong} == {"u", "w"}
    assert [entry.pair for entry in wrong if entry.percentile > entry.label_percentile] == ["w"]


def test_groups_are_ranked_by_their_means() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(list("abcd"), 25)
    level = np.repeat([0.9, 0.6, 0.3, 0.1], 25)
    labels = (rng.random(100) < level).astype(float)
    good, bad = level + 0.05 * rng.normal(size=100), -level + 0.05 * rng.normal(size=100)
    labels[7] = np.nan
    columns = [
        Column("distance", -good, -1),
        Column("bad", bad, 1),
        Column("nothing", np.full(100, np.nan), 1),
    ]
    found = ranking(columns, labels, list(groups), np.arange(100), ["arch"])
    assert [group.group for group in found.groups] == list("abcd")
    assert [group.label_rank for group in found.groups] == [1, 2, 3, 4]
    assert [group.ranks["distance"] for group in found.groups] == [1, 2, 3, 4]
    assert [group.ranks["bad"] for group in found.groups] == [4, 3, 2, 1]
    first = found.groups[0]
    rows = (groups == "a") & np.isfinite(labels)
    assert first.pairs == 24
    assert first.label == pytest.approx(labels[rows].mean(), rel=1e-5)
    assert first.scores["distance"] == pytest.approx(-good[rows].mean(), rel=1e-5)
    assert (found.spearman["distance"].value, found.kendall["distance"].value) == (1, 1)
    assert (found.spearman["bad"].value, found.kendall["bad"].value) == (-1, -1)
    assert found.spearman["distance"].low is not None
    assert 0 < found.spearman["distance"].low <= 1
    assert found.spearman["nothing"].reason == "measured for 0 groups; at least 3 are needed"


def test_the_rankings_bootstrap_is_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(2)
    member = np.repeat(np.arange(5), 12)
    labels = np.clip(member / 5 + 0.4 * rng.normal(size=60), 0, 1)
    values = member + 3 * rng.normal(size=60)
    found = ranking(
        [Column("m", values, 1)],
        labels,
        [str(group) for group in member],
        np.arange(60),
        ["g"],
        resamples=1500,
    )
    taus, rhos = [], []
    for _ in range(1500):
        rows = rng.integers(60, size=60)
        if len(set(member[rows])) == 5:
            means = [
                [side[rows][member[rows] == group].mean() for group in range(5)] for side in (values, labels)
            ]
            rhos.append(ORACLES["spearman"](*means))
            taus.append(ORACLES["kendall"](*means))
    for name, samples in (("spearman", rhos), ("kendall", taus)):
        estimate = getattr(found, name)["m"]
        assert (estimate.low, estimate.high) == pytest.approx(np.quantile(samples, [0.025, 0.975]), abs=0.11)
