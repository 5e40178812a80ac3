"""How much structure of one image is in another: bands of detail and SSIM, as formulas.

Training makes its own pairs, so it knows what a metric never knows: the image that the client trained on
(the *victim*), in place under the reconstruction. `agreement` and `ssim` measure how much of it the
reconstruction holds, `transform_grade` how much of the original the victim still holds after the client's
transformation, with the geometry undone. They are among the evidence of `oracle`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from fl_audit.semsim.transforms import Transformed, luminance

BAND_WEIGHTS = (0.3, 0.45, 0.25)
"""How much structure of 2 to 4, 4 to 8 and 8 to 16 pixels a period counts: an object in 32 pixels is told by
its parts, which are four to eight pixels wide."""
FAINT = 0.03
"""Standard deviation, in [0, 1], under which structure is too faint to be seen for certain."""

_WINDOW, _SIGMA = 11, 1.5
_LEAST = 0.2
"""Weight of visible bands under which an original is too flat to be recognised whatever was kept of it."""


def transform_grade(transformed: Transformed) -> Tensor:
    """How much of the original is left after the client's transformation, ``(N,)`` in [0, 1].

    Half of the area in the frame is enough; inverted structure counts like upright one.
    """
    kept = counted = torch.zeros(len(transformed.images))
    for weight, own, theirs in zip(
        BAND_WEIGHTS, bands(transformed.moved), bands(transformed.images), strict=True
    ):
        a, b = own.flatten(1).abs(), theirs.flatten(1).abs()
        a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
        edges = (a * b).mean(1) / (a.square().mean(1) * b.square().mean(1)).sqrt().clamp(min=1e-6)
        flat = own.flatten(1), theirs.flatten(1)
        plain = (flat[0] * flat[1]).mean(1) / (
            flat[0].square().mean(1) * flat[1].square().mean(1)
        ).sqrt().clamp(min=1e-6)
        share, visible = _seen(weight, flat[0].square().mean(1).sqrt(), flat[1].square().mean(1).sqrt())
        kept = kept + share * torch.maximum(edges, plain.abs()).clamp(0, 1) * visible
        counted = counted + share
    kept = kept / counted.clamp(min=_LEAST)
    kept = (kept / 0.7).clamp(max=1)
    return kept * ((transformed.visible - 0.15) / 0.4).clamp(0, 1)


def even(victims: Tensor, reconstructions: Tensor) -> Tensor:
    """The reconstructions with the victims' brightness, and a loss of contrast of up to a half undone.

    Neither keeps a person from recognising an image. Too much contrast stays: it mostly is noise.
    """
    every = (1, 2, 3)
    gain = victims.std(every, keepdim=True) / reconstructions.std(every, keepdim=True).clamp(min=1e-3)
    centred = reconstructions - reconstructions.mean(every, keepdim=True)
    return (centred * gain.clamp(1, 2) + victims.mean(every, keepdim=True)).clamp(0, 1)


def agreement(victims: Sequence[Tensor], reconstructions: Sequence[Tensor]) -> Tensor:
    """Correlation in each of the `bands`, lowered where structure is smoothed away or faint, in [0, 1]."""
    seen = counted = torch.zeros(len(victims[0]))
    for weight, own, theirs in zip(BAND_WEIGHTS, victims, reconstructions, strict=True):
        a, b = own.flatten(1), theirs.flatten(1)
        covariance = (a * b).mean(1)
        energy_a, energy_b = a.square().mean(1), b.square().mean(1)
        correlation = (covariance / (energy_a * energy_b).sqrt().clamp(min=1e-5)).clamp(0, 1)
        # What is smoothed away correlates with what was there, but is not there.
        strength = (2 * (energy_b / energy_a.clamp(min=1e-6)).sqrt() * correlation).clamp(max=1)
        share, visible = _seen(weight, energy_a.sqrt(), covariance.clamp(min=0).sqrt())
        seen = seen + share * correlation * strength * visible
        counted = counted + share
    return seen / counted.clamp(min=_LEAST)


def _seen(weight: float, own: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """What a band counts, and how visible it is in the reconstruction, from standard deviations ``(N,)``.

    A band in which the original itself shows next to nothing says little: few pixels enlarged have no detail
    to lose.
    """
    enough = own.clamp(min=1e-6, max=FAINT)
    return weight * enough / FAINT, (theirs / enough).clamp(max=1)


def ssim(victims: Tensor, reconstructions: Tensor) -> Tensor:
    """Mean SSIM of the colour channels, 11x11 Gaussian windows (Wang et al. 2004, equation 13), ``(N,)``."""
    x, y = victims, reconstructions
    across, down = (_windows(side, x.dtype) for side in (x.shape[3], x.shape[2]))
    mean_x, mean_y, square_x, square_y, product = down @ torch.stack([x, y, x * x, y * y, x * y]) @ across.T
    var_x, var_y, both = square_x - mean_x**2, square_y - mean_y**2, product - mean_x * mean_y
    light = (2 * mean_x * mean_y + 1e-4) / (mean_x.square() + mean_y.square() + 1e-4)
    found: Tensor = (light * (2 * both + 9e-4) / (var_x + var_y + 9e-4)).flatten(1).mean(1)
    return found


def _windows(side: int, dtype: torch.dtype) -> Tensor:
    """Every place of the window along a side as the rows of a matrix ``(side - 10, side)``."""
    offsets = torch.arange(side)[None] - torch.arange(side - _WINDOW + 1)[:, None] - _WINDOW // 2
    weights = torch.exp(-0.5 * (offsets / _SIGMA) ** 2) * (offsets.abs() <= _WINDOW // 2)
    return (weights / weights.sum(1, keepdim=True)).to(dtype)


def bands(images: Tensor) -> tuple[Tensor, ...]:
    """Differences of successive halvings of the luminance, from fine to coarse."""
    level = luminance(images)
    found = []
    for _ in BAND_WEIGHTS:
        smaller = avg_pool2d(level, 2)
        enlarged = interpolate(smaller, scale_factor=2, mode="bilinear", align_corners=False)
        found.append(level - enlarged)
        level = smaller
    return tuple(found)
