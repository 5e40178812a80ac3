"""Metrics that need the attacked model, the client's originals or a prior: known answers."""

import math

import pytest
import torch
from torch import nn

from fl_audit.data import datasets
from fl_audit.metrics import Context, frechet_distance, metrics, ssim
from fl_audit.metrics._features import penultimate
from fl_audit.metrics.attacked import feature_distance
from fl_audit.metrics.identification import rank_of_original
from fl_audit.models import models
from fl_audit.semsim import features, packaged


def images(n: int, seed: int = 0, shape: tuple[int, int, int] = (1, 8, 8)) -> torch.Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


class Brightness(nn.Module):
    """Features: mean and 1; class 1 if the mean is above a half."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 2)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[0.0, 0.5], [1.0, 0.0]]))
            self.head.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.flatten(1).mean(1)
        out: torch.Tensor = self.head(torch.stack([mean, torch.ones_like(mean)], 1))
        return out


def grey(*levels: float) -> torch.Tensor:
    return torch.stack([torch.full((1, 8, 8), level) for level in levels])


@pytest.mark.parametrize("name", ["lenet", "convnet", "resnet20-4", "mlp"])
def test_features_are_what_the_classifier_reads(name: str) -> None:
    torch.manual_seed(0)
    model = models.create(name).build((3, 32, 32), 10).eval()
    x = images(3, shape=(3, 32, 32))
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        features = penultimate(model, x)
        assert torch.allclose(last(features), model(x), atol=1e-6)
    assert not any(module._forward_pre_hooks for module in model.modules()), "hooks are taken off again"


def test_feature_distance_is_relative() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]])
    y = torch.tensor([[3.0, 4.0], [1.0, 0.0], [1.0, 2.0]])
    assert feature_distance(x, y).tolist() == pytest.approx([0, math.nan, 2], nan_ok=True)
    metric = metrics.create("feature-distance")
    scores = metric.score(grey(0.5, 1.0), grey(0.75, 0.0), Context(model=Brightness()))
    assert scores.tolist() == pytest.approx([0.25 / math.hypot(0.5, 1), 1 / math.hypot(1, 1)])
    zero = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(64, 2))
    found = metric.grade(grey(0.0, 1.0), grey(1.0, 1.0), Context(model=zero))
    assert found.values.tolist() == pytest.approx([math.nan, 0], nan_ok=True)
    assert found.reasons == ("the attacked model's features of the original are all zero", None)


def test_a_model_without_a_linear_layer_has_no_features_to_read() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    known = Context(model=model, client=images(4), others=images(4, 1))
    for name in ("feature-distance", "iip"):
        reasons = metrics.create(name).grade(images(2), images(2), known).reasons
        assert set(reasons) == {"the attacked model has no linear layer to read features at"}
    assert not bool(metrics.create("iip:pixels").score(images(2), images(2), known).isnan().any())


def test_classifier_agreement() -> None:
    metric = metrics.create("classifier-agreement")
    scores = metric.score(grey(0.2, 0.2, 0.9), grey(0.4, 0.8, 0.6), Context(model=Brightness()))
    assert scores.tolist() == [1, 0, 1]
    found = metric.grade(grey(0.2, 0.3), grey(0.4, 0.8), Context(model=Brightness(), client=grey(0.1)))
    assert all("one class for every known image" in str(reason) for reason in found.reasons)
    known = metric.score(grey(0.2, 0.3), grey(0.4, 0.8), Context(model=Brightness(), others=grey(0.9)))
    assert known.tolist() == [1, 0]


def test_ranks_by_a_plain_loop() -> None:
    x, guesses, pool = images(6), images(6, 1), torch.cat([images(6), images(30, 2)])
    expected = []
    for guess, truth in zip(guesses, x, strict=True):
        order = sorted(pool, key=lambda image: float((image - guess).double().square().sum()))
        expected.append(1 + next(row for row, image in enumerate(order) if torch.equal(image, truth)))
    assert rank_of_original(guesses.flatten(1), x.flatten(1), pool.flatten(1)).tolist() == expected
    assert len(set(expected)) > 3


def test_ties_and_copies() -> None:
    points = torch.tensor([[0.0], [2.0], [0.0]])
    assert rank_of_original(torch.tensor([[1.0]]), torch.tensor([[0.0]]), points).tolist() == [2], (
        "what is as near as the original is a rival; a copy of the original is not"
    )
    assert rank_of_original(torch.tensor([[0.0]]), torch.tensor([[0.0]]), points).tolist() == [1]


def test_identification() -> None:
    x = grey(0.1, 0.3, 0.5, 0.7, 0.9, 0.2, 0.4)
    guesses = x[[0, 2, 2, 3, 4, 5, 0]]
    known = Context(client=x)
    assert metrics.create("identification").score(x, guesses, known).tolist() == [1, 0, 1, 1, 1, 1, 0]
    top = metrics.create("identification-top5").score(x, guesses, known)
    assert top.tolist() == metrics.create("identification:5").score(x, guesses, known).tolist()
    assert top.tolist() == [1] * 7
    assert metrics.create("identification:top=3").score(x, guesses, known).tolist() == [1, 0, 1, 1, 1, 1, 0]


def test_identification_by_semsim_sees_through_a_flip() -> None:
    faces = datasets.create("faces").load().images[:100:10]
    flipped = 1 - 0.8 * (1 - faces.flip(3))
    known = Context(client=faces)
    by_pixels = metrics.create("identification").score(faces, flipped, known)
    by_semsim = metrics.create("identification:by=semsim").score(faces, flipped, known)
    assert float(by_semsim.mean()) > float(by_pixels.mean()) + 0.2
    assert metrics.create("identification:by=semsim").score(faces, faces, known).tolist() == [1] * 10


def test_the_frechet_distance_in_semsims_features() -> None:
    weights = packaged()
    x, y = images(60), images(60, 1) ** 2
    expected = frechet_distance(features(weights.network, x), features(weights.network, y))
    metric = metrics.create("frechet-semsim")
    assert metric.score(x, y).tolist() == pytest.approx([float(expected)])
    assert metric.score(x, x).tolist() == pytest.approx([0], abs=1e-6)
    assert float(expected) > 0.1
    assert "too few" in str(metric.grade(x[:9], y[:9]).reasons[0])


def test_identification_among_too_few_says_nothing() -> None:
    alone = metrics.create("identification").grade(images(1), images(1, 1), Context(client=images(1)))
    assert alone.reasons == ("the client has 1 different known image, so any guess would be right",)
    copies = Context(client=torch.cat([images(3)] * 4))
    five = metrics.create("identification-top5").grade(images(3), images(3, 1), copies)
    assert set(five.reasons) == {"the client has 3 different known images, so any guess would be right"}


def test_image_identifiability_is_by_the_models_features() -> None:
    x, others = grey(0.2, 0.6), grey(0.35, 0.9)
    # By brightness alone (the features' angle), 0.3 lies nearer to 0.35 than to 0.2; 0.62 nearest to 0.6.
    known = Context(model=Brightness(), client=x, others=others)
    metric = metrics.create("iip")
    assert metric.score(x, grey(0.3, 0.62), known).tolist() == [0, 1]
    assert metric.score(x, grey(0.21, 0.88), known).tolist() == [1, 0]
    checkered = x.clone()
    checkered[0, 0, ::2] = 0.0
    checkered[0, 0, 1::2] = 0.4
    assert metric.score(x, checkered, known).tolist() == [1, 1], "equal brightness is all that the model sees"


def test_relative_leakage_is_the_papers_ratio() -> None:
    x, guess, prior = images(4), images(4, 1), images(4).roll(1, 0) * 0.1 + 0.4
    metric = metrics.create("rdlv")
    guess = (x + guess) / 2
    with_prior = ssim(x, prior)
    expected = [
        (float(a) - float(p)) / float(p) if float(p) >= 0.01 else math.nan
        for a, p in zip(ssim(x, guess), with_prior, strict=True)
    ]
    found = metric.grade(x, guess, Context(prior=prior))
    assert found.values.tolist() == pytest.approx(expected, nan_ok=True)
    assert [reason is None for reason in found.reasons] == [not math.isnan(value) for value in expected]
    assert metric.score(x, x, Context(prior=x)).tolist() == [0] * 4
    inverted = metric.grade(x, guess, Context(prior=1 - x))
    assert all("the prior's SSIM is under 0.01" in str(reason) for reason in inverted.reasons)
