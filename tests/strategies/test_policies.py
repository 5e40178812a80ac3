"""The operations of ATS, against torchvision's on tensors and against shifts by hand."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional

from fl_audit.core.training import Batch, Learner, Training
from fl_audit.strategies.defenses import defenses
from fl_audit.strategies.defenses._policies import BOTH, OPERATIONS, parse_policies, transform
from fl_audit.strategies.defenses.ats import AutomaticTransformation


def picture(seed: int = 0, channels: int = 3) -> torch.Tensor:
    """A smooth random image, uint8 ``(C, 16, 20)``."""
    small = torch.rand(1, channels, 4, 5, generator=torch.Generator().manual_seed(seed))
    large = torch.nn.functional.interpolate(small, (16, 20), mode="bilinear")[0]
    return (large * 255).round().to(torch.uint8)


def applied(number: int, image: torch.Tensor, seed: int = 0) -> torch.Tensor:
    values = image.permute(1, 2, 0).numpy()
    made = transform(
        Image.fromarray(values[:, :, 0] if len(image) == 1 else values),
        (number,),
        torch.Generator().manual_seed(seed),
    )
    out = torch.from_numpy(np.array(made))
    return out[None] if out.ndim == 2 else out.permute(2, 0, 1)


def test_there_are_fifty_and_the_two_policies_are_those_of_the_paper() -> None:
    assert len(OPERATIONS) == 50
    assert [OPERATIONS[n] for n in (3, 1, 7)] == [
        ("translate-x", 9),
        ("contrast", 6),
        ("translate-y", 2),
    ]
    assert [OPERATIONS[n] for n in (43, 18, 18)] == [
        ("translate-y", 3),
        ("contrast", 7),
        ("contrast", 7),
    ]
    assert parse_policies(BOTH) == ((3, 1, 7), (43, 18, 18))
    assert defenses.create("ats").params() == {"policy": "both"}


@pytest.mark.parametrize("number", range(50))
@pytest.mark.parametrize("channels", [1, 3])
def test_every_operation_keeps_size_and_mode(number: int, channels: int) -> None:
    image = picture(number, channels)
    out = applied(number, image)
    assert out.shape == image.shape
    assert out.dtype == torch.uint8


@pytest.mark.parametrize("seed", range(4))
def test_shifts_are_shifts_by_a_share_of_the_side_with_black_behind(seed: int) -> None:
    image = picture(seed)
    wide, high = round(150 / 331 * 20), round(150 / 331 * 2 / 9 * 16)
    expected = []
    for sign in (-1, 1):
        moved = torch.zeros_like(image)
        if sign > 0:
            moved[:, :, :-wide] = image[:, :, wide:]
        else:
            moved[:, :, wide:] = image[:, :, :-wide]
        expected.append(moved)
    assert any(torch.equal(applied(3, image, seed), moved) for moved in expected)
    moved_down = torch.zeros_like(image)
    moved_down[:, high:] = image[:, :-high]
    moved_up = torch.zeros_like(image)
    moved_up[:, :-high] = image[:, high:]
    assert any(torch.equal(applied(7, image, seed), moved) for moved in (moved_down, moved_up))


@pytest.mark.parametrize(
    ("number", "reference", "change"),
    [
        (1, functional.adjust_contrast, 0.5 * 6 / 9),
        (15, functional.adjust_brightness, 0.5),
        (27, functional.adjust_saturation, 0.5 * 8 / 9),
        (14, functional.adjust_sharpness, 0.5),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_factors_are_one_more_or_less_the_magnitude(
    number: int, reference: object, change: float, seed: int
) -> None:
    image = picture(seed)
    out = applied(number, image, seed).int()
    assert callable(reference)
    gaps = [int((out - reference(image, 1 + sign * change).int()).abs().max()) for sign in (-1, 1)]
    assert min(gaps) <= 2
    assert max(gaps) > 2


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, functional.invert),
        (9, functional.equalize),
        (8, functional.autocontrast),
        (11, lambda image: functional.posterize(image, 6)),
        (37, lambda image: functional.solarize(image, 256 - 256 * 4 / 9)),
    ],
)
def test_operations_without_direction_agree_with_torchvision(number: int, expected: object) -> None:
    image = picture(1)
    assert callable(expected)
    assert int((applied(number, image).int() - expected(image).int()).abs().max()) <= 1


@pytest.mark.parametrize("policy", ["3-1-7", "both", "2-6-0"])
def test_what_is_traced_is_what_clients_train_on(policy: str) -> None:
    images = torch.stack([picture(seed).float() / 255 for seed in range(6)])
    defense = AutomaticTransformation(policy=policy)
    batch = Batch(images, torch.zeros(6, dtype=torch.int64), images)
    learner = Learner(
        torch.nn.Identity(),
        torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1),
        Training(),
        images,
        batch.labels,
        2,
    )
    trained_on = defense.batch(batch, learner, rng=torch.Generator().manual_seed(3)).images
    traced = defense.traced(images, rng=torch.Generator().manual_seed(3))
    assert torch.equal(traced.images, trained_on)
    assert traced.moved.shape == images.shape
    assert ((traced.visible > 0) & (traced.visible <= 1)).all()


def test_tracing_leaves_the_colours_as_they_were_and_knows_what_left_the_frame() -> None:
    image = picture(1).float()[None] / 255
    wide, high = round(150 / 331 * 20), round(150 / 331 * 2 / 9 * 16)
    traced = AutomaticTransformation(policy="3-1-7").traced(image, rng=torch.Generator().manual_seed(0))
    candidates = []
    for right in (slice(wide, None), slice(None, -wide)):
        for down in (slice(high, None), slice(None, -high)):
            part = image[:, :, down, right]
            if torch.equal(traced.moved[traced.moved > 0].sort().values, part[part > 0].sort().values):
                candidates.append(part)
    assert candidates
    assert float(traced.visible) == pytest.approx((20 - wide) * (16 - high) / (20 * 16))
    assert not torch.equal(traced.moved, traced.images), "the contrast was changed in the one alone"
    inverted = AutomaticTransformation(policy="0").traced(image, rng=torch.Generator())
    assert torch.equal(inverted.moved, image)
    assert float(inverted.visible) == 1
