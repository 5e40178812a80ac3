"""Starts, schedules and optimisers, against known answers."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from fl_audit.attacks.feature_start import FeatureInversion
from fl_audit.attacks.labels import Labels
from fl_audit.attacks.optimisers import Adam
from fl_audit.attacks.problem import Problem, prepare
from fl_audit.attacks.schedules import Constant, CosineDecay, StepDecay, WarmUp
from fl_audit.attacks.starts import Given, MeanImage, NormalNoise, Pattern, SmoothNoise, Start, UniformNoise
from fl_audit.core.progress import Progress
from tests.attacks.cases import CPU, make_case

CASE = make_case(labels=(0, 1), shape=(3, 10, 8))
LABELS = Labels(CASE.labels, inferred=False)


def problem(surrogate: Tensor | None = None) -> Problem:
    knowledge = replace(CASE.knowledge, surrogate=surrogate)
    return prepare(CASE.update, knowledge, seed=0, who="t", device=CPU, progress=Progress())


STARTS: dict[str, Start] = {
    "normal": NormalNoise(),
    "uniform": UniformNoise(),
    "pattern": Pattern(3),
    "mean": MeanImage(),
    "smooth": SmoothNoise(4),
    "features": FeatureInversion(iterations=3),
    "given": Given(torch.full((2, 3, 10, 8), math.nan)),
}


@pytest.mark.parametrize("name", STARTS)
def test_it_draws_from_the_problems_generator_only_and_stays_in_the_box(name: str) -> None:
    start, first = STARTS[name], problem()
    state = torch.get_rng_state()
    images = start(first, LABELS)
    assert torch.equal(torch.get_rng_state(), state)
    assert images.shape == (2, 3, 10, 8)
    assert images.dtype == torch.float32
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1
    assert torch.equal(images, start(problem(), LABELS))
    assert not torch.equal(images, start(first, LABELS)), "another restart starts elsewhere"
    assert not torch.equal(images[0], images[1]), "the gradient cannot tell equal images apart"


def test_a_pattern_repeats() -> None:
    images = Pattern(3)(problem(), LABELS)
    for down in range(10):
        for right in range(8):
            assert torch.equal(images[..., down, right], images[..., down % 3, right % 3])


def test_the_mean_image_is_grey_or_the_mean_of_the_surrogates() -> None:
    grey = MeanImage(std=0.0, level=0.4)
    assert torch.equal(grey(problem(), LABELS), torch.full((2, 3, 10, 8), 0.4))
    surrogate = torch.rand(5, 3, 10, 8, generator=torch.Generator().manual_seed(1))
    expected = (surrogate[0] + surrogate[1] + surrogate[2] + surrogate[3] + surrogate[4]) / 5
    assert torch.allclose(grey(problem(surrogate), LABELS)[1], expected)
    noisy = MeanImage(std=0.05)(problem(), LABELS)
    assert 0.04 < float((noisy - 0.5).std()) < 0.06


def test_smooth_noise_is_smooth_and_constant_at_the_lowest_resolution() -> None:
    rough, smooth = NormalNoise()(problem(), LABELS), SmoothNoise(4)(problem(), LABELS)

    def roughness(images: Tensor) -> float:
        return float((images - avg_pool2d(images, 3, 1, 1, count_include_pad=False)).std() / images.std())

    assert roughness(smooth) < 0.5 * roughness(rough)
    constant = SmoothNoise(10)(problem(), LABELS)
    assert torch.allclose(constant, constant[..., :1, :1].expand_as(constant))


def test_given_images_are_used_and_missing_ones_start_elsewhere() -> None:
    images = torch.rand(2, 3, 10, 8, generator=torch.Generator().manual_seed(1)) * 1.5
    images[1, 0, 0, 0] = math.nan
    start = Given(images, missing=MeanImage(std=0.0))(problem(), LABELS)
    assert torch.equal(start[0], images[0].clamp(0, 1))
    assert torch.equal(start[1], torch.full((3, 10, 8), 0.5))
    with pytest.raises(ValueError, match=r"\(2, 3, 10, 8\), got \(1, 3, 10, 8\)"):
        Given(images[:1])(problem(), LABELS)


def test_cosine_decay_falls_from_one_to_its_end() -> None:
    assert [CosineDecay()(share / 4) for share in range(4)] == pytest.approx(
        [1, 0.853553, 0.5, 0.146447], rel=1e-5
    )
    assert CosineDecay(end=0.2)(0.5) == pytest.approx(0.6)


def test_warm_up_rises_in_a_line_and_hands_over() -> None:
    schedule = WarmUp(0.2, then=StepDecay((0.5,)))
    factors = [schedule(progress) for progress in (0.0, 0.05, 0.1, 0.2, 0.59, 0.61)]
    assert factors == pytest.approx([0.01, 0.25, 0.5, 1, 1, 0.1])
    assert WarmUp(0.5, then=Constant())(0.9) == 1


def test_adam_takes_the_steps_of_its_equations() -> None:
    own = torch.tensor([1.0, -2.0], requires_grad=True)
    optimiser = Adam(0.1).build(own)
    first, second, value = [0.0, 0.0], [0.0, 0.0], [1.0, -2.0]
    for step, slopes in enumerate(([3.0, -0.2], [-1.0, 0.5], [0.1, 0.0]), 1):
        own.grad = torch.tensor(slopes)
        optimiser.step()
        for place, slope in enumerate(slopes):
            first[place] = 0.9 * first[place] + 0.1 * slope
            second[place] = 0.999 * second[place] + 0.001 * slope**2
            move = first[place] / (1 - 0.9**step) / (math.sqrt(second[place] / (1 - 0.999**step)) + 1e-8)
            value[place] -= 0.1 * move
        assert own.tolist() == pytest.approx(value, abs=1e-6)
