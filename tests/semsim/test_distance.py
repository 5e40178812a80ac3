"""The metric: input handling, invariances, and what it must tell apart."""

from collections.abc import Callable

import numpy as np
import pytest
import skimage.data
import torch
from torch import Tensor

from fl_audit.metrics import metrics
from fl_audit.semsim import distance, features, packaged, prepare
from fl_audit.semsim.network import views

lfw_subset: Callable[[], np.ndarray] = skimage.data.lfw_subset


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def faces() -> Tensor:
    """Grey 25x25 crops, float32 ``(100, 1, 25, 25)``: no data set of them was trained on."""
    return torch.from_numpy(lfw_subset()[:100]).float()[:, None]


def test_every_size_and_grey_go_through_one_place() -> None:
    assert prepare(noise(2, 3, 32, 32)).shape == (2, 3, 32, 32)
    assert prepare(noise(2, 1, 8, 50)).shape == (2, 3, 32, 32)
    assert torch.equal(prepare(torch.full((1, 1, 9, 9), 0.5)), torch.zeros(1, 3, 32, 32))
    grey = noise(4, 1, 28, 28)
    network = packaged().network
    assert torch.equal(features(network, grey), features(network, grey.expand(-1, 3, -1, -1)))
    for shape in ((4, 28, 28), (4, 2, 28, 28), (4, 3, 0, 28)):
        with pytest.raises(ValueError, match="expected images"):
            prepare(torch.zeros(shape))
    with pytest.raises(ValueError, match="as many images on both sides"):
        distance(network, grey, grey[:2])


def test_a_network_in_train_mode_is_refused() -> None:
    import copy

    with pytest.raises(ValueError, match="eval mode"):
        features(copy.deepcopy(packaged().network).train(), noise(2, 3, 32, 32))


def test_an_image_does_not_see_its_neighbours() -> None:
    x, y = noise(70, 3, 32, 32), noise(70, 3, 32, 32, seed=1)
    whole = distance(packaged().network, x, y)
    order = torch.randperm(70, generator=torch.Generator().manual_seed(0))
    assert torch.equal(distance(packaged().network, x[order], y[order]), whole[order])
    alone = torch.cat([distance(packaged().network, x[i : i + 1], y[i : i + 1]) for i in (0, 33, 69)])
    assert torch.equal(alone, whole[[0, 33, 69]])


def test_the_distance_is_symmetric_and_zero_for_equal_images() -> None:
    x, y = faces()[:20], faces()[20:40]
    network = packaged().network
    assert distance(network, x, x).tolist() == [0.0] * 20
    assert torch.equal(distance(network, x, y), distance(network, y, x))
    assert distance(network, x[:0], y[:0]).shape == (0,)


def test_a_mirror_image_is_the_same_leak_and_one_upside_down_is_near() -> None:
    x = noise(20, 3, 32, 32)
    network = packaged().network
    assert distance(network, x, x.flip(3)).max() < 1e-3  # scaling differs in the last bits
    assert distance(network, faces()[:20], faces()[:20].flip(3)).max() < 1e-3
    assert distance(network, x, x.flip(2)).min() > 0.01


def test_features_are_the_mean_over_the_views() -> None:
    x = noise(11, 3, 32, 32)
    network, ready = packaged().network, prepare(x)
    seen = views(ready)
    assert seen.shape == (2, 11, 3, 32, 32)
    assert torch.equal(seen[0], ready)
    assert torch.equal(seen[1], ready.flip(3))
    expected = torch.stack([network(view) for view in seen]).mean(0)
    assert torch.allclose(features(network, x), expected, atol=1e-4)


def test_a_turned_or_inverted_face_stays_nearer_than_another_face_or_noise() -> None:
    x = faces()
    unit = metrics.create("semsim")
    other, static = unit.score(x, x.roll(1, 0)), unit.score(x, noise(*x.shape))
    for near in (x.flip(3), 1 - x, x * 0.5, x.roll(3, 2)):
        assert (unit.score(x, near) < other).double().mean() > 0.7
        assert (unit.score(x, near) < static).double().mean() > 0.95
    assert packaged().calibration.probability(static).median() < 0.4


def test_more_noise_is_farther() -> None:
    x = faces()
    steps = [
        metrics.create("semsim").score(x, (x + level * (noise(*x.shape) - 0.5)).clamp(0, 1)).mean()
        for level in (0.0, 0.3, 0.7, 1.5, 3.0)
    ]
    assert steps == sorted(steps)
