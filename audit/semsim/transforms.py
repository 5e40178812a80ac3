"""What a client may do to its images before it trains: a person still recognises them, PSNR collapses.

The transformations are those that ATS policies draw from (Gao, Guo, Zhang, Qiu, Wen and Liu,
"Privacy-preserving Collaborative Learning with Automatic Transformation Search", CVPR 2021,
https://arxiv.org/abs/2011.12505): flip, shift, rotation, zoom, contrast, brightness, gamma, inversion,
posterise, solarise, channels, saturation.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the luminance (ITU-R BT.601)."""


@dataclass(frozen=True)
class Transformed:
    """A batch after the client's transformation.

    Attributes:
        images: float32 ``(N, 3, H, W)`` in [0, 1].
        moved: the same images with the geometry alone changed: what the colours did is seen against it.
        visible: share of the original's area that is still inside the frame, ``(N,)`` in [0, 1].
    """

    images: Tensor
    moved: Tensor
    visible: Tensor


def random_transform(
    images: Tensor, generator: torch.Generator, share: float = 0.7, moving: float = 0.65
) -> Transformed:
    """Transform each image of a batch at random; ``1 - share`` of them are left as they are.

    Args:
        images: float32 ``(N, 3, H, W)`` in [0, 1].
        generator: CPU generator; all choices come from it.
        share: probability that an image is transformed at all.
        moving: probability that the geometry changes where anything does; else only colours do.
    """
    n = len(images)
    touched = torch.rand(n, generator=generator) < share
    geometric = touched & (torch.rand(n, generator=generator) < moving)
    coloured = touched & (~geometric | (torch.rand(n, generator=generator) < 0.45))
    moved, visible = images.clone(), torch.ones(n)
    rows = geometric.nonzero().flatten()
    if len(rows):
        moved[rows], visible[rows] = _move(images[rows], generator)
    result = moved.clone()
    rows = coloured.nonzero().flatten()
    if len(rows):
        result[rows] = _recolour(moved[rows], generator)
    return Transformed(result.clamp(0, 1), moved, visible)


def luminance(images: Tensor) -> Tensor:
    """Luminance ``(N, 1, H, W)`` of colour images ``(N, 3, H, W)``."""
    weights = torch.tensor(LUMA, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def _move(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Flip, rotate, zoom, shift, each by its own chance, in one resampling; the share still in the frame."""
    n = len(images)

    def draw(low: float, high: float, chance: float, idle: float) -> Tensor:
        on = torch.rand(n, generator=generator) < chance
        return torch.where(on, low + (high - low) * torch.rand(n, generator=generator), torch.tensor(idle))

    flip = torch.where(torch.rand(n, generator=generator) < 0.45, -1.0, 1.0)
    upside = torch.where(torch.rand(n, generator=generator) < 0.06, -1.0, 1.0)
    angle = draw(-50, 50, 0.45, 0.0) * (math.pi / 180)
    zoom = draw(-0.6, 0.5, 0.4, 0.0).exp()
    shear = draw(-0.3, 0.3, 0.1, 0.0)
    shift_x, shift_y = draw(-0.7, 0.7, 0.35, 0.0), draw(-0.7, 0.7, 0.35, 0.0)
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    theta = torch.stack(
        [
            torch.stack([cos * flip, -sin + shear, shift_x], 1),
            torch.stack([sin * flip, cos * upside, shift_y], 1),
        ],
        1,
    )
    grid = affine_grid(theta, list(images.shape), align_corners=False)
    inside = (grid.abs() <= 1).all(-1).float().mean((1, 2))
    # The frame shows |det| times its own area of the original.
    area = (theta[:, 0, 0] * theta[:, 1, 1] - theta[:, 0, 1] * theta[:, 1, 0]).abs()
    visible = (inside * area).clamp(max=1.0)
    fill = torch.randint(4, (n,), generator=generator)
    result = torch.empty_like(images)
    for mode, kind in ((0, "zeros"), (1, "border"), (2, "reflection"), (3, "zeros")):
        rows = (fill == mode).nonzero().flatten()
        if len(rows):
            base = torch.rand(len(rows), 3, 1, 1, generator=generator) if mode == 3 else torch.zeros(1)
            sampled = grid_sample(
                images[rows] - base, grid[rows], mode="bilinear", padding_mode=kind, align_corners=False
            )
            result[rows] = sampled + base
    return result.clamp(0, 1), visible


def _recolour(images: Tensor, generator: torch.Generator) -> Tensor:
    """One to three changes of colour for each image."""
    rounds = 1 + (torch.rand(len(images), generator=generator) < 0.35).long()
    rounds += (torch.rand(len(images), generator=generator) < 0.1).long()
    result = images
    for turn in range(3):
        kind = torch.randint(len(_COLOURS), (len(images),), generator=generator)
        changed = result.clone()
        for number, change in enumerate(_COLOURS):
            rows = ((kind == number) & (rounds > turn)).nonzero().flatten()
            if len(rows):
                changed[rows] = change(result[rows], generator).clamp(0, 1)
        result = changed
    return result


def _uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return (low + (high - low) * torch.rand(n, generator=generator)).view(n, 1, 1, 1)


def _contrast(x: Tensor, generator: torch.Generator) -> Tensor:
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * _uniform(len(x), -1.3, 1.0, generator).exp() + mean


def _brightness(x: Tensor, generator: torch.Generator) -> Tensor:
    return x + _uniform(len(x), -0.4, 0.4, generator)


def _gamma(x: Tensor, generator: torch.Generator) -> Tensor:
    return x.clamp(1e-4, 1).pow(_uniform(len(x), -1.2, 1.2, generator).exp())


def _invert(x: Tensor, generator: torch.Generator) -> Tensor:
    del generator
    return 1 - x


def _posterise(x: Tensor, generator: torch.Generator) -> Tensor:
    levels = 2.0 ** torch.randint(1, 5, (len(x), 1, 1, 1), generator=generator)
    steps = (x * levels).floor().minimum(levels - 1)
    # Half of the implementations keep the top bits (dark), half spread over the full range.
    dark = torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5
    return torch.where(dark, steps / levels, steps / (levels - 1))


def _solarise(x: Tensor, generator: torch.Generator) -> Tensor:
    threshold = _uniform(len(x), 0.2, 0.9, generator)
    return torch.where(x >= threshold, 1 - x, x)


def _channels(x: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.rand(len(x), 3, generator=generator).argsort(1)
    return x.gather(1, order.view(-1, 3, 1, 1).expand_as(x))


def _saturation(x: Tensor, generator: torch.Generator) -> Tensor:
    grey = luminance(x)
    return grey + (x - grey) * _uniform(len(x), 0.0, 2.0, generator)


def _tint(x: Tensor, generator: torch.Generator) -> Tensor:
    gain = 0.4 + 1.2 * torch.rand(len(x), 3, 1, 1, generator=generator)
    return x * gain + 0.3 * (torch.rand(len(x), 3, 1, 1, generator=generator) - 0.5)


_COLOURS = (
    _contrast,
    _brightness,
    _gamma,
    _invert,
    _posterise,
    _solarise,
    _channels,
    _channels,
    _saturation,
    _tint,
    _invert,
)
