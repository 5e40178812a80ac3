"""Pixels of 8 bits tell which normalisation they went through."""

import pytest
import torch
from torch import Tensor

from fl_audit.federation.apps.normalise import WELL_KNOWN, Normalisation, find_normalisation
from fl_audit.federation.apps.origin import Norm

IMAGENET = WELL_KNOWN["ImageNet"]
CIFAR = WELL_KNOWN["CIFAR-10"]
HALVES: Norm = ((0.5,) * 3, (0.5,) * 3)


def pixels(low: int = 0, high: int = 255) -> Tensor:
    """Images of 8 bits with channels of their own, all levels from ``low`` to ``high``."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(low, high + 1, (2, 3, 24, 24), generator=generator)
    images[0, :, 0, :2] = torch.tensor([low, high])
    return images.float() / 255


def fed(images: Tensor, norm: Norm) -> Tensor:
    mean, std = (torch.tensor(part).view(1, -1, 1, 1) for part in norm)
    return (images - mean) / std


def found(inputs: Tensor, called: list[Norm], made: list[Norm]) -> Normalisation:
    result = find_normalisation(inputs, called, made, None)
    assert isinstance(result, Normalisation), result
    return result


@pytest.mark.parametrize("made", [[HALVES, IMAGENET, CIFAR], [CIFAR, IMAGENET, HALVES]])
def test_of_several_that_fit_the_one_that_gives_whole_levels_is_taken(made: list[Norm]) -> None:
    images = pixels(90, 170)  # neither black nor white: all three give something in [0, 1]
    for norm in (IMAGENET, CIFAR, HALVES):
        torch.testing.assert_close(found(fed(images, norm), [], made).undo(fed(images, norm)), images)


def test_a_normalise_that_the_app_only_has_is_not_undone() -> None:
    """It may be a layer of the model."""
    for images in (pixels(), pixels(100, 160), torch.rand(1, 3, 8, 8)):
        result = found(images, [], [HALVES])
        assert result.how.startswith("none")
        assert torch.equal(result.undo(images), images)


@pytest.mark.parametrize(
    ("norm", "how"),
    [(IMAGENET, "that of ImageNet"), (((0.4, 0.5, 0.3), (0.2, 0.25, 0.3)), "worked out from the 256 levels")],
)
def test_a_normalisation_that_nobody_saw_is_worked_out_from_the_pixels(norm: Norm, how: str) -> None:
    images = pixels()
    result = found(fed(images, norm), [], [])
    assert how in result.how
    torch.testing.assert_close(result.undo(fed(images, norm)), images, atol=1e-5, rtol=0)


def test_grey_as_the_mean_of_three_channels_of_8_bits_is_known_though_it_is_dark() -> None:
    """As scikit-image's faces are: 765 levels, few of which one small image has."""
    sums = torch.randint(0, 250, (625,), generator=torch.Generator().manual_seed(1))
    images = (sums.view(1, 1, 25, 25) / 765).float()
    assert found(images, [], []).how.startswith("none")
    dim = found(fed(images, ((0.5,), (0.5,))), [], [((0.5,), (0.5,))])
    torch.testing.assert_close(dim.undo(fed(images, ((0.5,), (0.5,)))), images)


def test_a_small_float_image_with_few_values_is_not_taken_for_8_bits() -> None:
    """As a face that was resized: means of twelve values, of which a small dark picture has few."""
    generator = torch.Generator().manual_seed(1)
    few = torch.randperm(2180, generator=generator)[:175]
    sums = few[torch.randint(0, 175, (625,), generator=generator)]
    images = (sums.view(1, 1, 25, 25) / 3060).float()
    assert found(images, [], []).how.startswith("none")


def test_channels_with_one_normalisation_share_their_black_and_white() -> None:
    images = pixels(0, 200)
    images[:, 0] = pixels(60, 255)[:, 0]
    odd: Norm = ((0.4,), (0.3,))
    result = found(fed(images, odd), [], [])
    assert len(result.norm[0]) == 1
    torch.testing.assert_close(result.undo(fed(images, odd)), images, atol=1e-5, rtol=0)


def test_padding_after_the_normalisation_does_not_hide_it() -> None:
    inputs = fed(pixels(20, 200), IMAGENET)
    inputs[:, :, :4] = 0.0
    assert "ImageNet" in found(inputs, [], []).how


@pytest.mark.parametrize(
    "images", [pixels(90, 170), torch.rand(2, 3, 16, 16), pixels(90, 170).half().float()]
)
def test_what_the_pixels_do_not_say_is_asked_for(images: Tensor) -> None:
    odd: Norm = ((0.4, 0.5, 0.3), (0.2, 0.25, 0.05))
    assert "--input-range LOW,HIGH" in str(find_normalisation(fed(images, odd), [], [], None))


def test_what_fits_but_gives_no_levels_is_not_believed() -> None:
    odd: Norm = ((0.49, 0.48, 0.44), (0.25, 0.24, 0.26))
    inputs = fed(pixels(60, 170), odd)
    each = pixels(60, 170)
    inputs[1] = (each[1] - each[1].mean()) / each[1].std()  # by its own mean
    for called, made in (([HALVES], []), ([], [CIFAR, HALVES])):
        assert "--input-range LOW,HIGH" in str(find_normalisation(inputs, called, made, None))


def test_black_and_white_are_told_for_each_channel() -> None:
    images = torch.rand(2, 3, 8, 8)
    inputs = fed(images, IMAGENET)
    ends = [(end - m) / s for m, s in zip(*IMAGENET, strict=True) for end in (0.0, 1.0)]
    result = find_normalisation(inputs, [], [], ends)
    assert isinstance(result, Normalisation)
    torch.testing.assert_close(result.undo(inputs), images)
    assert "is for 3 channels, the images have 1" in str(find_normalisation(inputs[:, :1], [], [], ends))
    assert "outside --input-range" in str(find_normalisation(inputs, [], [], (-1.0, 1.0)))
