"""The parts of label inference against brute force, loops, finite differences and known embeddings."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from fl_audit.attacks._label_counts import neighbours, real_counts, rounded, whole_counts
from fl_audit.attacks._label_crowd import _moments
from fl_audit.attacks._label_separation import separable, separate
from fl_audit.attacks._last_layer import LastLayer
from fl_audit.attacks._stand_ins import dead_leaves
from fl_audit.attacks.labels import infer


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def every_count(images: int, classes: int) -> Iterator[tuple[int, ...]]:
    if classes == 1:
        yield (images,)
        return
    for first in range(images + 1):
        for rest in every_count(images - first, classes - 1):
            yield (first, *rest)


def cost(quadratic: Tensor, linear: Tensor, counts: Tensor) -> float:
    return float(counts @ quadratic @ counts - 2 * linear @ counts)


@pytest.mark.parametrize("seed", range(4))
def test_whole_counts_and_their_neighbours_against_all_of_them(seed: int) -> None:
    root = random(6, 4, seed=seed) + 2 * torch.eye(6, 4, dtype=torch.float64)
    quadratic, truth = root.T @ root, torch.tensor([3, 0, 1, 2])
    linear = quadratic @ truth.double() + 0.3 * random(4, seed=seed + 50)
    found, value = whole_counts(quadratic, linear, torch.tensor([0, 6, 0, 0]))
    costs = {n: cost(quadratic, linear, torch.tensor(n).double()) for n in every_count(6, 4)}
    assert value == pytest.approx(min(costs.values()))
    assert costs[tuple(found.tolist())] == pytest.approx(min(costs.values()))
    near = neighbours(quadratic, linear, found, 5)
    one_moved = sorted(v for n, v in costs.items() if (torch.tensor(n) - found).abs().sum() == 2)
    assert [costs[tuple(n.tolist())] for n in near] == pytest.approx([value, *one_moved[:4]])


def test_real_counts_are_the_minimum_that_is_not_negative() -> None:
    quadratic = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    linear = torch.tensor([5.0, 0.2, 1.0], dtype=torch.float64)
    found = real_counts(quadratic, linear, 4.0)
    assert float(found.sum()) == pytest.approx(4.0)
    assert bool((found >= 0).all())
    grid = torch.linspace(0, 4, 41, dtype=torch.float64)
    least = min(
        cost(quadratic, linear, torch.stack([a, b, 4 - a - b])) for a in grid for b in grid if a + b <= 4
    )
    assert cost(quadratic, linear, found) <= least + 1e-6


def test_rounding_keeps_the_sum() -> None:
    assert rounded(torch.tensor([1.6, 1.6, 0.8, -0.4]), 4).tolist() == [2, 1, 1, 0]
    assert rounded(torch.tensor([4.0, 4.0, 0.0]), 4).tolist() == [2, 2, 0]
    assert int(rounded(torch.tensor([float("nan"), 1.0]), 5).sum()) == 5


def layer_of(
    labels: Tensor, *, classes: int, features: int = 12, bias: bool = True
) -> tuple[LastLayer, Tensor]:
    """A last layer with the gradient of known embeddings, by autograd, and these embeddings."""
    images = len(labels)
    embeddings = random(images, features, seed=1).abs()
    weight = (0.5 * random(classes, features, seed=2)).requires_grad_()
    offset = (0.1 * random(classes, seed=3)).requires_grad_()
    loss = cross_entropy(embeddings @ weight.T + offset, labels)
    of_weight, of_offset = torch.autograd.grad(loss, (weight, offset))
    layer = LastLayer(
        weight=weight.detach(),
        bias=offset.detach(),
        weight_gradient=of_weight,
        bias_gradient=of_offset if bias else None,
        embeddings=random(40, features, seed=4).abs(),
    )
    return layer, embeddings


def apart(found: Tensor, truth: Tensor) -> float:
    """Largest relative distance of an embedding to the nearest one found."""
    return float((torch.cdist(truth, found).min(1).values / truth.norm(dim=1)).max())


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("labels", [(0, 3, 3, 5), (2, 2, 2), (1, 4, 6, 6, 7)], ids=str)
def test_embeddings_are_recovered_and_wrong_labels_are_not_proved(
    labels: tuple[int, ...], bias: bool
) -> None:
    true = torch.tensor(labels)
    layer, embeddings = layer_of(true, classes=9, bias=bias)
    assert layer.rank == len(labels)
    assert separable(layer, len(labels))
    found = separate(layer, true, 4)
    assert found.proved
    assert apart(found.embeddings, embeddings) < 1e-4
    wrong = true.clone()
    wrong[0] = 8
    assert not separate(layer, wrong, 4).proved


def test_the_scale_is_found_with_the_embeddings() -> None:
    labels = torch.tensor([0, 3, 3, 5])
    layer, embeddings = layer_of(labels, classes=9)
    assert layer.bias_gradient is not None
    scaled = LastLayer(
        weight=layer.weight,
        bias=layer.bias,
        weight_gradient=0.03 * layer.weight_gradient,
        bias_gradient=0.03 * layer.bias_gradient,
        embeddings=layer.embeddings,
        scale=None,
    )
    found = separate(scaled, labels, 4)
    assert found.scale == pytest.approx(0.03, rel=1e-4)
    assert apart(found.embeddings, embeddings) < 1e-3
    assert infer(scaled, 4)[0].tolist() == labels.tolist()


@pytest.mark.parametrize("scale", [1.0, None], ids=["scale known", "scale unknown"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(("classes", "labels"), [(3, (0, 1)), (5, (0, 1, 3, 3))], ids=str)
def test_nothing_is_proved_that_other_labels_explain_as_well(
    classes: int, labels: tuple[int, ...], bias: bool, scale: float | None
) -> None:
    true = torch.tensor(labels)
    layer = replace(layer_of(true, classes=classes, bias=bias)[0], scale=scale)
    assert separable(layer, len(labels)) is bias
    wrong = []
    for place in range(len(labels)):
        for label in range(classes):
            other = true.clone()
            other[place] = label
            if sorted(other.tolist()) != sorted(labels):
                wrong.append(separate(layer, other, 2).proved)
    # Without a bias there are as many equations as unknowns: wrong labels explain the gradient, too.
    assert any(wrong) is not bias


def test_more_images_than_classes_are_not_told_apart() -> None:
    layer, _ = layer_of(torch.tensor([0, 1, 2, 2, 1]), classes=4)
    assert layer.rank == 3
    assert not separable(layer, 5)


def test_moments_against_loops_and_finite_differences() -> None:
    classes, points = 3, 5
    logits, bias, centre = random(classes, points, classes), random(classes, seed=1), random(classes, seed=2)
    offset = 1 + 0.1 * random(points, 1, seed=3)
    weights = random(classes, points, seed=4).softmax(1)

    def statistic(c: int, p: int, shift: Tensor) -> Tensor:
        moved = logits[c, p] + shift
        residual = (moved + bias).softmax(0) - one_hot(torch.tensor(c), classes)
        return torch.outer(residual, torch.cat([moved - centre, offset[p]])).flatten()

    def expected(c: int, shift: Tensor) -> Tensor:
        return torch.stack([weights[c, p] * statistic(c, p, shift) for p in range(points)]).sum(0)

    mean, covariance, slopes = _moments(logits, bias, centre, offset, weights)
    none = torch.zeros(classes, dtype=torch.float64)
    for c in range(classes):
        assert torch.allclose(mean[c], expected(c, none))
        parts = [statistic(c, p, none) - mean[c] for p in range(points)]
        spread = torch.stack([weights[c, p] * torch.outer(part, part) for p, part in enumerate(parts)])
        assert torch.allclose(covariance[c], spread.sum(0))
        for k, unit in enumerate(1e-6 * torch.eye(classes, dtype=torch.float64)):
            assert torch.allclose(slopes[c, :, k], (expected(c, unit) - expected(c, -unit)) / 2e-6, atol=1e-7)


def test_stand_ins_are_images_and_the_seed_decides() -> None:
    first, again, other = (
        dead_leaves(4, (3, 12, 10), torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert first.shape == (4, 3, 12, 10)
    assert float(first.min()) >= 0
    assert float(first.max()) <= 1
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    # Neighbouring pixels are alike, as in natural images and unlike noise.
    steps = (first[..., 1:] - first[..., :-1]).abs().mean()
    noise = torch.rand(first.shape, generator=torch.Generator().manual_seed(0))
    assert float(steps / first.std()) < 0.7 * float(
        (noise[..., 1:] - noise[..., :-1]).abs().mean() / noise.std()
    )
