"""Losses against torch's own and against loops, calibration and AUC against scikit-learn."""

import itertools

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor

from fl_audit.semsim import (
    Calibration,
    classification_loss,
    contrastive_loss,
    expected_calibration_error,
    fit,
    ranking_loss,
    triplet_loss,
)
from fl_audit.semsim.evaluation import agreement, auc
from fl_audit.semsim.train import STRANGERS, batch_loss
from fl_audit.semsim.triplet import stranger_loss


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("margin", [0.2, 1.0, 3.0])
def test_the_triplet_loss_equals_torchs(margin: float) -> None:
    a, p, n = (draw(50, 16, seed=seed).requires_grad_() for seed in range(3))
    ours = triplet_loss(a, p, n, margin)
    theirs = torch.nn.TripletMarginLoss(margin=margin, p=2)(a, p, n)
    assert float(ours) == pytest.approx(float(theirs), rel=1e-12)
    mine = torch.autograd.grad(ours, (a, p, n))
    reference = torch.autograd.grad(theirs, (a, p, n))
    for left, right in zip(mine, reference, strict=True):
        torch.testing.assert_close(left, right)


def test_ranking_equals_a_loop_and_the_triplet_loss_for_two() -> None:
    d, g = draw(12).abs(), torch.linspace(0, 1, 12, dtype=torch.float64)[torch.randperm(12)]
    terms = [
        max(float(d[i] - d[j]) + min(1.0, 2 * float(g[i] - g[j])), 0.0)
        for i, j in itertools.permutations(range(12), 2)
        if g[i] - g[j] > 0.1
    ]
    assert float(ranking_loss(d, g)) == pytest.approx(sum(terms) / len(terms))
    a, p, n = draw(1, 8), draw(1, 8, seed=1), draw(1, 8, seed=2)
    two = torch.cat([(a - p).norm(dim=1), (a - n).norm(dim=1)])
    assert float(ranking_loss(two, torch.tensor([1.0, 0.0]))) == pytest.approx(
        float(triplet_loss(a, p, n)), abs=1e-5
    )
    assert float(ranking_loss(d, torch.full((12,), 0.5))) == 0


def test_pair_losses_by_hand() -> None:
    d, y = torch.tensor([0.5, 0.25, 2.0]), torch.tensor([1.0, 0.0, 0.0])
    assert float(contrastive_loss(d, y)) == pytest.approx((0.25 + 0.5625 + 0) / 3)
    odds = 1 - d
    expected = -(torch.sigmoid(odds[0]).log() + (1 - torch.sigmoid(odds[1:])).log().sum()) / 3
    assert float(classification_loss(d, y)) == pytest.approx(float(expected))


def test_the_calibration_equals_logistic_regression() -> None:
    d = draw(4000).abs() * 3
    y = (torch.rand(4000, generator=torch.Generator().manual_seed(1)) < torch.sigmoid(3 - 2 * d)).double()
    found = fit(d, y)
    reference = LogisticRegression(C=1e6).fit(d[:, None].numpy(), y.numpy())
    assert found.slope == pytest.approx(-float(reference.coef_[0, 0]), rel=0.01)
    assert found.intercept == pytest.approx(float(reference.intercept_[0]), rel=0.01)
    assert expected_calibration_error(found.probability(d), y) < 0.03
    assert expected_calibration_error(Calibration(6.0, 2.0).probability(d), y) > 0.15


def test_a_calibration_needs_both_answers_and_survives_perfect_ones() -> None:
    with pytest.raises(ValueError, match="over and under"):
        fit(torch.arange(4.0), torch.ones(4))
    perfect = fit(torch.arange(4.0), torch.tensor([1.0, 1, 0, 0]))
    assert 0 < perfect.slope < 1000
    assert perfect.probability(torch.tensor([1.5])).item() == pytest.approx(0.5, abs=0.01)


def test_half_answers_are_half_a_yes() -> None:
    d = torch.tensor([0.0, 1, 1, 2])
    halves = fit(d, torch.tensor([1.0, 0.5, 0.5, 0.0]))
    split = fit(d, torch.tensor([1.0, 1.0, 0.0, 0.0]))
    assert halves.slope == pytest.approx(split.slope, rel=1e-3)


def test_expected_calibration_error_by_hand() -> None:
    p, y = torch.tensor([0.05, 0.05, 0.95, 0.85]), torch.tensor([0.0, 1.0, 1.0, 0.5])
    assert expected_calibration_error(p, y) == pytest.approx(0.5 * 0.45 + 0.25 * 0.05 + 0.25 * 0.35)


def test_auc_equals_scikit_learns() -> None:
    scores, truth = (draw(200) * 3).round(), draw(200, seed=1) > 0
    expected = roc_auc_score(truth.numpy(), scores.numpy())
    assert auc(scores[truth], scores[~truth]) == pytest.approx(expected)
    found = agreement(-scores, truth.double(), Calibration(0.0, 1.0))
    assert found.auc == pytest.approx(expected)
    assert found.pairs == 200


def test_strangers_cost_what_the_triplet_loss_says_and_only_beside_clear_pairs() -> None:
    a, p, n = (draw(1, 16, seed=seed) for seed in range(3))
    near, far = (a - p).norm(dim=1), (a - n).norm(dim=1)
    assert float(stranger_loss(near, far, 3.0)) == pytest.approx(float(triplet_loss(a, p, n, 3.0)), abs=1e-5)
    d, e = draw(5).abs(), draw(7, seed=1).abs()
    terms = [max(float(x - y) + 1, 0.0) for x in d for y in e]
    assert float(stranger_loss(d, e)) == pytest.approx(sum(terms) / 35)
    assert float(stranger_loss(d[:0], e)) == 0


def test_a_batch_costs_its_ranking_and_its_strangers() -> None:
    own, other = draw(4, 8), draw(4, 2, 8, seed=1)
    grades = torch.tensor([[1.0, 0.5], [0.0, 0.25], [0.75, 0.0], [0.6, 0.5]], dtype=torch.float64)
    d = (own[:, None] - other).norm(dim=2)
    clear = torch.stack([d[0, 0], d[2, 0], d[3, 0]])
    turned = own[[3, 0, 1, 2]]
    far = torch.cat([(turned - other[:, 0]).norm(dim=1), (own - turned).norm(dim=1)])
    expected = ranking_loss(d.flatten(), grades.flatten()) + STRANGERS * stranger_loss(clear, far)
    assert float(batch_loss(own, other, grades)) == pytest.approx(float(expected), abs=1e-4)
    assert float(batch_loss(own, other, torch.zeros_like(grades))) == 0
