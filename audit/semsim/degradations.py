"""What gradient inversion does to a picture, imitated: noise, blotches, mixing, blur, holes, drift.

Each function takes and gives float32 ``(N, 3, H, W)`` and a strength ``(N, 1, 1, 1)`` in [0, 1] for each
image; 0 leaves it as it is, or nearly so. `degrade` draws kinds and strengths and clamps to [0, 1].
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate, pad

from fl_audit.semsim.transforms import luminance

Degradation = Callable[[Tensor, Tensor, torch.Generator], Tensor]
Kinds = tuple[tuple[Degradation, float], ...]
"""Degradations with the weights that they are drawn with."""


def degrade(
    images: Tensor,
    generator: torch.Generator,
    strength: Tensor,
    kinds: Kinds | None = None,
) -> Tensor:
    """Spoil each image by one to three kinds of degradation.

    Args:
        images: float32 ``(N, 3, H, W)`` in [0, 1].
        generator: CPU generator.
        strength: ``(N,)`` in [0, 1], how much on the whole.
        kinds: to draw from, with weights; None for all.
    """
    n = len(images)
    kinds = KINDS if kinds is None else kinds
    # Noise is what most failed attacks leave, and TV-smoothed blotches what most half-failed ones do.
    score = torch.rand(n, len(kinds), generator=generator) * torch.tensor([weight for _, weight in kinds])
    count = 1 + (torch.rand(n, 1, generator=generator) < 0.55).long()
    count += (torch.rand(n, 1, generator=generator) < 0.3).long()
    chosen = score.argsort(1, descending=True).argsort(1) < count
    shares = strength[:, None] * (0.4 + 0.6 * torch.rand(n, len(kinds), generator=generator))
    result = images.clone()
    for number, (kind, _) in enumerate(kinds):
        rows = chosen[:, number].nonzero().flatten()
        if len(rows):
            result[rows] = kind(result[rows], shares[rows, number].view(-1, 1, 1, 1), generator)
    return result.clamp(0, 1)


def noise(x: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian noise of a random spectrum, white to red; colours together or apart; often saturated."""
    white = _randn(x, generator)
    grey = torch.rand(len(x), 1, 1, 1, generator=generator) < 0.15
    white = torch.where(grey, white[:, :1], white)
    slope = (torch.rand(len(x), 1, 1, 1, generator=generator) * 3 - 1).clamp(min=0)
    height, width = x.shape[2:]
    fy, fx = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
    radius = (fy.square() + fx.square()).sqrt().clamp(min=1 / max(height, width))
    coloured = torch.fft.irfft2(torch.fft.rfft2(white) * radius ** (-slope), s=(height, width))
    coloured = coloured / coloured.std((1, 2, 3), keepdim=True).clamp(min=1e-6)
    spoiled: Tensor = x + 1.1 * strength**1.5 * coloured
    return spoiled


def fade_into_noise(x: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """A start that has moved only part of the way: a weighted mean of the image and saturated noise."""
    start = (0.5 + (0.2 + torch.rand(len(x), 1, 1, 1, generator=generator)) * _randn(x, generator)).clamp(
        0, 1
    )
    part = strength**0.8
    return (1 - part) * x + part * start


def signs(x: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Pixels thrown to 0 or 1 in single channels, as signed steps of a large size do."""
    hit = torch.rand(x.shape, generator=generator) < 0.9 * strength
    return torch.where(hit, (torch.rand(x.shape, generator=generator) < 0.5).float(), x)


def blotches(x: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Noise flattened by total variation: patches of one colour, from noise that was there or is added."""
    noisy = x + 0.9 * strength * _randn(x, generator)
    for _ in range(1 + int(torch.randint(3, (1,), generator=generator))):
        noisy = _median(noisy)
    return noisy


def flattened(x: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """What much total variation leaves of a weak signal: few dull patches, the coarse layout and no parts.

    Blurred, smooth noise mixed in, contrast lost towards the mean, then medians until patches are flat.
    """
    low = x
    for _ in range(2):
        low = avg_pool2d(pad(low, (2, 2, 2, 2), mode="replicate"), 5, 1)
    dull = x + (low - x) * strength
    rough = _randn(x, generator)
    for _ in range(1 + int(torch.randint(3, (1,), generator=generator))):
        rough = avg_pool2d(pad(rough, (1, 1, 1, 1), mode="replicate"), 3, 1)
    rough = rough / rough.std((1, 2, 3), keepdim=True).clamp(min=1e-6)
    rough = rough + torch.rand(len(x), 1, 1, 1, generator=generator) * (luminance(rough) - rough)
    own = torch.rand(len(x), 1, 1, 1, generator=generator)
    mean = x.mean((1, 2, 3), keepdim=True)
    result = mean + (1 - 0.7 * own * strength) * (dull - mean) + (0.05 + 0.2 * (1 - own)) * strength * rough
    for turn in range(6):
        result = torch.where(strength * 6 > turn, _median(result), result)
    return result


def smooth(x: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Over-smoothing that keeps PSNR and loses content: box blurs, or repeated medians."""
    del generator
    blurred, levels = x, [x]
    for _ in range(5):
        for _ in range(2):
            blurred = avg_pool2d(pad(blurred, (1, 1, 1, 1), mode="replicate"), 3, 1)
        blurred = avg_pool2d(pad(blurred, (2, 2, 2, 2), mode="replicate"), 5, 1)
        levels.append(blurred)
    return _between(torch.stack(levels), strength)


def coarse(x: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Fewer pixels, enlarged again as squares or smoothly."""
    result = torch.empty_like(x)
    level = (strength.flatten() * 4).round().long()
    for number, factor in enumerate((1.0, 0.6, 0.4, 0.25, 0.16)):
        rows = (level == number).nonzero().flatten()
        if len(rows):
            small = (
                interpolate(x[rows], scale_factor=factor, mode="bilinear", antialias=True)
                if number
                else x[rows]
            )
            mode = "nearest" if torch.rand(1, generator=generator) < 0.5 else "bicubic"
            result[rows] = interpolate(small, x.shape[2:], mode=mode)
    return result


def mix(x: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Images of one batch blended into each other, evenly or unevenly over the frame."""
    other = x[torch.randperm(len(x), generator=generator)]
    even = torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5
    field = (_field(x, generator) * 2 * strength).clamp(0, 1)
    part = torch.where(even, 0.9 * strength, field)
    return (1 - part) * x + part * other


def holes(x: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Parts that were never reconstructed: grey, noise, a flat colour or the image's own texture repeated."""
    kind = torch.randint(4, (len(x), 1, 1, 1), generator=generator)
    corner = x[:, :, :8, :8].repeat(1, 1, -(-x.shape[2] // 8), -(-x.shape[3] // 8))[
        :, :, : x.shape[2], : x.shape[3]
    ]
    flat = torch.rand(len(x), 3, 1, 1, generator=generator).expand_as(x)
    static = torch.rand(x.shape, generator=generator)
    filling = torch.where(
        kind == 0, static, torch.where(kind == 1, flat, torch.where(kind == 2, corner, 0.5))
    )
    return torch.where(_field(x, generator) < strength, filling, x)


def fade(x: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Contrast lost towards a colour."""
    target = torch.rand(len(x), 3, 1, 1, generator=generator)
    part = 0.97 * strength**0.7
    return (1 - part) * x + part * target


def drift(x: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Colours that wander over the frame, and channels of the wrong size."""
    small = _randn(x[:, :, :3, :3], generator)
    field = interpolate(small, x.shape[2:], mode="bicubic", align_corners=True)
    gain = 1 + strength * (torch.rand(len(x), 3, 1, 1, generator=generator) * 1.6 - 0.8)
    return (x - 0.5) * gain + 0.5 + 0.45 * strength * field


def saturate(x: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Contrast pushed into the ends of the pixel box."""
    shift = (torch.rand(len(x), 3, 1, 1, generator=generator) - 0.5) * strength
    return ((x - 0.5) * (1 + 8 * strength**2) + 0.5 + shift).clamp(0, 1)


def edges(x: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Flat areas lost: high frequencies on grey."""
    del generator
    low = avg_pool2d(pad(x, (3, 3, 3, 3), mode="replicate"), 7, 1)
    return x - strength * (low - 0.5)


def scattered(x: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Pixels displaced each on its own."""
    field = torch.randn(len(x), 2, *x.shape[2:], generator=generator)
    line_y, line_x = (torch.linspace(-1 + 1 / side, 1 - 1 / side, side) for side in x.shape[2:])
    grid = torch.stack(torch.meshgrid(line_y, line_x, indexing="ij")[::-1], -1)
    moved = grid + (0.3 * strength**1.3 * field).permute(0, 2, 3, 1)
    return grid_sample(x, moved, mode="nearest", padding_mode="reflection", align_corners=False)


def _field(x: Tensor, generator: torch.Generator) -> Tensor:
    """A random field ``(N, 1, H, W)``, uniform in [0, 1], smooth or in blocks."""
    side = (2, 3, 4, 8)[int(torch.randint(4, (1,), generator=generator))]
    mode = "nearest" if torch.rand(1, generator=generator) < 0.4 else "bilinear"
    return interpolate(torch.rand(len(x), 1, side, side, generator=generator), x.shape[2:], mode=mode)


def _between(levels: Tensor, strength: Tensor) -> Tensor:
    """Each image's own place on a ladder ``(L, N, C, H, W)``, interpolated."""
    place = strength.flatten() * (len(levels) - 1)
    below = place.long().clamp(max=len(levels) - 2)
    part = (place - below).view(-1, 1, 1, 1)
    rows = torch.arange(levels.shape[1])
    return (1 - part) * levels[below, rows] + part * levels[below + 1, rows]


def _median(x: Tensor) -> Tensor:
    """The median of each pixel and its four neighbours."""
    padded = pad(x, (1, 1, 1, 1), mode="replicate")
    middle, left, right = padded[..., 1:-1, 1:-1], padded[..., 1:-1, :-2], padded[..., 1:-1, 2:]
    up, down = padded[..., :-2, 1:-1], padded[..., 2:, 1:-1]
    # The median of five by minima and maxima: of two sorted pairs drop the least and the greatest.
    a, b = torch.minimum(left, right), torch.maximum(left, right)
    c, d = torch.minimum(up, down), torch.maximum(up, down)
    low, high = torch.maximum(a, c), torch.minimum(b, d)
    return torch.maximum(torch.minimum(low, high), torch.minimum(torch.maximum(low, high), middle))


def _randn(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=generator)


KINDS: Kinds = (
    (flattened, 1.1),
    (mix, 0.7),
    (edges, 0.6),
    (smooth, 0.8),
    (coarse, 0.6),
    (holes, 0.7),
    (saturate, 0.7),
    (drift, 0.7),
    (noise, 1.0),
    (fade_into_noise, 1.0),
    (signs, 0.8),
    (blotches, 1.0),
    (fade, 0.8),
    (scattered, 0.5),
)
"""All of them, with how often training draws each. None displaces smoothly: a person still recognises what
the oracle, which compares in place, would call lost."""
