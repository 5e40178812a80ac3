"""The share of noise in an update, against the share that was put in."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fl_audit.attacks.noise import noise_share
from fl_audit.core.seeding import seeded_globals


def gradient(images: int) -> list[Tensor]:
    """The gradient of a real ReLU net of several layers."""
    with seeded_globals(3, "weights"):
        model = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(512, 10),
        )
        inputs = torch.rand(images, 3, 16, 16)
    loss = cross_entropy(model(inputs), torch.arange(images))
    return list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("images", [1, 4])
def test_a_gradient_as_it_is_shows_next_to_none(images: int) -> None:
    assert noise_share(gradient(images)) < 0.02


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_the_noise_that_was_added_is_found(share: float) -> None:
    parts = gradient(2)
    energy = sum(float(part.square().sum()) for part in parts)
    entries = sum(part.numel() for part in parts)
    std = (share / (1 - share) * energy / entries) ** 0.5
    generator = torch.Generator().manual_seed(0)
    noised = [part + std * torch.randn(part.shape, generator=generator) for part in parts]
    assert noise_share(noised) == pytest.approx(share, rel=0.25)
    assert noise_share([5 * part for part in noised]) == pytest.approx(noise_share(noised), rel=1e-4)


def test_pruned_entries_and_small_tensors_are_not_taken_for_it() -> None:
    parts = gradient(2)
    limit = [part.abs().flatten().kthvalue(max(part.numel() // 2, 1)).values for part in parts]
    assert noise_share([torch.where(p.abs() > at, p, 0) for p, at in zip(parts, limit, strict=True)]) == 0
    assert noise_share([torch.ones(8)]) == 0
    assert 0 < noise_share([torch.ones(64)]) <= 1
