"""The cocktail party attack: parts against closed forms, and natural images out of a real update."""

from collections.abc import Callable

import numpy as np
import pytest
import skimage.data
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from fl_audit.attacks import attacks
from fl_audit.attacks._mixtures import mixtures, rank_of_gradient
from fl_audit.attacks._unmixing import Criterion, fast_ica, log_cosh, resemblance, separate, unmix
from fl_audit.core.knowledge import Knowledge
from fl_audit.core.types import CaptureKey, Reconstruction, TrainingDetails, Update
from tests.attacks.cases import CPU, Centre, snapshot, train

SHAPE = (3, 24, 24)
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")


def natural_images(count: int) -> Tensor:
    """Crops of scikit-image's own colour photographs, ``(count, 3, 24, 24)``."""
    crops = []
    for name in PHOTOGRAPHS:
        picture = getattr(skimage.data, name)()
        for top, left in ((0, 0), (0, 200), (140, 60), (140, 240)):
            crop = torch.from_numpy(picture[top : top + 144, left : left + 144].transpose(2, 0, 1) / 255)
            crops.append(nn.functional.avg_pool2d(crop.float(), 6))
    order = [photograph * 4 + place for place in range(4) for photograph in range(4)]
    return torch.stack([crops[place] for place in order])[:count]


def dense(width: int = 192, bias: bool = True) -> nn.Module:
    return nn.Sequential(
        Centre(), nn.Flatten(), nn.Linear(3 * 24 * 24, width, bias=bias), nn.ReLU(), nn.Linear(width, 10)
    )


def attack(
    spec: str,
    images: Tensor,
    *,
    details: TrainingDetails | None = None,
    grant: bool = True,
    build: Callable[[], nn.Module] = dense,
    told: int | None = None,
    noise: float = 0.0,
) -> Reconstruction:
    """Train a client for real and attack its update."""
    details = details or TrainingDetails(batch_size=len(images))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = build()
    sent = snapshot(model)
    train(model, images, torch.arange(len(images)) % 10, details)
    generator = torch.Generator().manual_seed(2)
    received = {
        name: value + noise * torch.randn(value.shape, generator=generator)
        for name, value in snapshot(model).items()
    }
    reported = {"num-examples": len(images) if told is None else told}
    update = Update(CaptureKey("none", 1, 0), 7, sent, received, {}, reported)
    knowledge = Knowledge(
        model=model,
        loss="cross-entropy",
        num_classes=10,
        image_shape=SHAPE,
        training=details if grant else None,
    )
    return attacks.create(spec).run(update, knowledge, seed=0, device=CPU)


def quality(result: Reconstruction, images: Tensor) -> Tensor:
    """PSNR in dB of each original after matching."""
    assert (result.status, result.reason) == ("done", None)
    assert result.images is not None
    cost = (images.flatten(1)[:, None] - result.images.flatten(1)).square().mean(2)
    rows, columns = linear_sum_assignment(cost.numpy())
    return -10 * cost[rows, columns].clamp(min=1e-12).log10()


def guess(images: Tensor) -> float:
    """Mean PSNR of the best guess without a gradient: the mean of the very batch."""
    return float((-10 * (images - images.mean(0)).square().flatten(1).mean(1).log10()).mean())


@pytest.mark.parametrize(("count", "grant", "mean"), [(8, True, 26), (16, True, 23), (8, False, 26)])
def test_a_batch_of_photographs_is_separated(count: int, grant: bool, mean: float) -> None:
    images = natural_images(count)
    found = quality(attack("cocktail-party:iterations=200", images, grant=grant), images)
    assert float(found.mean()) > mean > guess(images) + 9
    assert float((found > 16).float().mean()) > 0.8


def test_the_contrast_of_the_paper_beats_a_guess() -> None:
    images = natural_images(4)
    spec = "cocktail-party:contrast=values,box=0,iterations=1000"
    assert float(quality(attack(spec, images), images).mean()) > guess(images) + 3


@pytest.mark.parametrize("count", [2, 8, 16])
def test_relu_units_make_the_images_exact(count: int) -> None:
    images = natural_images(count)
    result = attack("cocktail-party:iterations=200,units=relu", images)
    assert float(quality(result, images).min()) > 60
    assert any(f"{count} of {count} images are confirmed" in note for note in result.notes)


@pytest.mark.parametrize("noise", [1e-7, 1e-5])
def test_noise_never_confirms_an_image_that_is_wrong(noise: float) -> None:
    images = natural_images(8)
    plain = quality(attack("cocktail-party:iterations=200", images, noise=noise), images)
    result = attack("cocktail-party:iterations=200,units=relu", images, noise=noise)
    found = quality(result, images)
    assert float(found.mean()) > float(plain.mean()) - 1
    if any("8 of 8 images are confirmed" in note for note in result.notes):
        assert float(found.min()) > 30


def test_units_confirm_nothing_where_the_activation_is_smooth() -> None:
    def smooth() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 24, 192), nn.Tanh(), nn.Linear(192, 10))

    images = natural_images(6)
    plain = attack("cocktail-party:iterations=50", images, build=smooth)
    result = attack("cocktail-party:iterations=50,units=relu", images, build=smooth)
    assert any("0 of 6 images are confirmed" in note for note in result.notes)
    assert plain.images is not None
    assert result.images is not None
    assert torch.equal(plain.images, result.images)


def test_local_steps_mix_in_the_same_way() -> None:
    images = natural_images(8)
    details = TrainingDetails(batch_size=2, local_steps=4, momentum=0.5, learning_rate=0.05)
    result = attack("cocktail-party:iterations=200", images, details=details)
    assert float(quality(result, images).mean()) > 25


def test_the_rank_tells_the_number_of_images() -> None:
    images = natural_images(8)
    more = attack("cocktail-party:iterations=200", images, grant=False, told=3)
    assert float(quality(more, images).mean()) > 25
    assert any("rank 8" in note for note in more.notes)
    twice = attack("cocktail-party:iterations=1", torch.cat([images[:4], images[:2]]))
    assert twice.images is not None
    assert len(twice.images) == 4
    assert any("rank 4 for 6 images" in note for note in twice.notes)


def test_noise_hides_the_rank_and_the_reported_number_is_used() -> None:
    result = attack("cocktail-party:iterations=1", natural_images(5), noise=1e-2)
    assert result.images is not None
    assert len(result.images) == 5


def test_one_image_is_exact() -> None:
    images = natural_images(1)
    assert float(quality(attack("cocktail-party", images), images)) > 60


def test_an_adaptive_optimiser_is_refused() -> None:
    details = TrainingDetails(optimizer="adam", batch_size=4)
    result = attack("cocktail-party", natural_images(4), details=details)
    assert result.status == "failed"
    assert "adam" in (result.reason or "")


def test_a_layer_without_bias_is_refused() -> None:
    result = attack("cocktail-party", natural_images(4), build=lambda: dense(bias=False))
    assert result.status == "failed"
    assert "no bias" in (result.reason or "")


def mixed(sources: Tensor, rows: int, factor: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    mixing = torch.randn(rows, len(sources), generator=generator, dtype=torch.float64)
    return factor * mixing @ sources, factor * mixing.sum(1)


@pytest.mark.parametrize("factor", [1.0, -3e-4])
def test_scale_and_sign_are_those_of_the_inputs(factor: float) -> None:
    images = natural_images(6).double().flatten(1)
    weight, bias = mixed(images, 40, factor)
    criterion = Criterion(iterations=200)
    found = unmix(
        weight, bias, 6, shape=SHAPE, generator=torch.Generator().manual_seed(0), criterion=criterion
    )
    cost = (images[:, None] - found).square().mean(2)
    rows, columns = linear_sum_assignment(cost.numpy())
    assert float(cost[rows, columns].max()) < 10**-1.8


def test_features_after_relu_are_separated_too() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        extractor = nn.Sequential(nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.ReLU())
    with torch.no_grad():
        features = extractor((natural_images(8) - 0.5) / 0.25).double()
    weight, bias = mixed(features.flatten(1), 40)
    shape = (16, 12, 12)
    found = unmix(weight, bias, 8, shape=shape, generator=torch.Generator().manual_seed(0))
    alike = nn.functional.normalize(features.flatten(1)) @ nn.functional.normalize(found).T
    rows, columns = linear_sum_assignment(-alike.numpy())
    assert float(alike[rows, columns].mean()) > 0.97


def test_candidates_end_in_one_and_span_the_gradient() -> None:
    images = natural_images(5).double().flatten(1)
    weight, bias = mixed(images, 30)
    gradient = mixtures(weight, bias, 5)
    found = separate(
        gradient.basis, Criterion(iterations=3), shape=SHAPE, generator=torch.Generator().manual_seed(0)
    )
    candidates = found.unmixing @ gradient.basis
    assert torch.allclose(candidates[:, -1], torch.ones(5, dtype=torch.float64))
    joined = torch.cat([weight, bias[:, None]], 1)
    left = joined - torch.linalg.lstsq(candidates.T, joined.T).solution.T @ candidates
    assert float(left.norm()) < 1e-8 * float(joined.norm())


@pytest.mark.parametrize("images", [1, 4, 12])
def test_the_rank_is_the_number_of_different_inputs(images: int) -> None:
    sources = natural_images(images).double().flatten(1)
    weight, bias = mixed(torch.cat([sources, sources[:1]]), 40)
    generator = torch.Generator().manual_seed(0)
    rounded = weight + 1e-7 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    assert rank_of_gradient(rounded, bias) == images
    noisy = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    assert rank_of_gradient(noisy, bias) is None


def test_fast_ica_separates_sources_with_heavy_tails() -> None:
    random = np.random.default_rng(0)
    sources = torch.from_numpy(random.laplace(size=(4, 4000)))
    rotation = torch.linalg.qr(torch.from_numpy(random.normal(size=(4, 4))))[0]
    values, vectors = torch.linalg.eigh(sources @ sources.T / 4000)
    white = (vectors / values.sqrt()) @ vectors.T @ sources
    found = fast_ica(rotation @ white, torch.Generator().manual_seed(0)) @ rotation
    assert torch.allclose(found.abs().max(1).values, torch.ones(4, dtype=torch.float64), atol=0.02)
    assert sorted(found.abs().argmax(1).tolist()) == [0, 1, 2, 3]


def test_log_cosh_and_resemblance_are_their_formulas() -> None:
    values = torch.linspace(-5, 5, 11, dtype=torch.float64)
    assert torch.allclose(log_cosh(values), values.cosh().log())
    assert float(log_cosh(torch.tensor(1e4))) == pytest.approx(1e4 - np.log(2))
    assert float(resemblance(torch.eye(3), 12.4)) == 0
    pair = torch.tensor([[1.0, 0.0], [-0.6, 0.8]])
    assert float(resemblance(pair, 2.0)) == pytest.approx(2 * np.expm1(1.2) / 4)
