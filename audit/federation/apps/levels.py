"""The 256 levels of pixels of 8 bits, which show through any affine normalisation of a channel."""

import torch
from torch import Tensor

from fl_audit.federation.apps.origin import Norm

NEAR = 0.02
"""Distance from a whole number, in levels, at which a value is on one; chance gives 4% of the values."""

GRAIN = 2e-3
"""Values closer than this, in levels, are the same: rounding."""

MOST = 0.6
"""Share of the values that occur that must be on levels: padding after the normalisation is on none."""

NEARLY_ALL = 0.98
"""Share of all values where the normalisation itself is read off them."""

LEVELS = 256

LEVEL = 0.8
"""Distance of two values from which they are on different levels; half precision rounds by hundredths."""

FEWEST = 32
"""Different values of a channel below which they may be of another kind than pixels of 8 bits."""

PADDING = 4
"""Different values that padding may add."""

ENOUGH = 2
"""Values for each different one, at least: of floating point, hardly two are equal."""

IMAGES = 16
"""Images that are looked at one by one."""

SAMPLE = 200_000
"""Values that are looked at."""


def on_levels(images: Tensor) -> bool:
    """Whether images in [0, 1] have pixels of 8 bits, but for a minority of the values that occur.

    Or grey ones that are the mean of three such channels.
    """
    values = torch.unique((_some(images).double() * 255 / GRAIN).round()) * GRAIN
    shares = [_near(values * channels).double().mean() for channels in (1, 3)]
    return len(values) > 1 and bool(max(shares) >= MOST)


def are_quantised(inputs: Tensor) -> bool:
    """Whether ``(N, C, H, W)`` came of pixels of 8 bits by affine maps, be it one for each image."""
    each = [_is_quantised(image) for image in inputs[:IMAGES]]
    return 2 * sum(each) > len(each)


def _is_quantised(image: Tensor) -> bool:
    """Whether each channel of ``(C, H, W)`` has many values, but no more different ones than 8 bits allow.

    Nor closer ones: a small float image may have few values, but not a whole level apart.
    """
    for channel in image.flatten(1):
        values = channel.double()
        span = float(values.max() - values.min()) or 1.0
        different = torch.unique((values * (LEVELS / GRAIN / span)).round()) * GRAIN
        found, gaps = len(different), different.diff()
        if not FEWEST <= found <= LEVELS + PADDING or len(values) < ENOUGH * found:
            return False
        if int(((gaps > NEAR) & (gaps < LEVEL)).sum()) > 2 * PADDING:
            return False
    return True


def by_levels(inputs: Tensor) -> Norm | None:
    """Mean and deviation for all channels ``(N, C, H, W)``, else for each; None where pixels do not say.

    They say it where black and white both occur: in any channel if all have the same, else in each.
    """
    for channels in (inputs.reshape(1, -1), inputs.transpose(0, 1).flatten(1)):
        ends = [found for channel in channels if (found := _ends(channel)) is not None]
        if len(ends) == len(channels):
            means = tuple(-low / (high - low) for low, high in ends)
            return means, tuple(1 / (high - low) for low, high in ends)
    return None


def _ends(values: Tensor) -> tuple[float, float] | None:
    """The least and the greatest value, if they are black and white by the levels between them."""
    low, high = float(values.min()), float(values.max())
    if not high > low:
        return None
    places = (_some(values).double() - low) * (255 / (high - low))
    near = _near(places)
    enough = bool(near.double().mean() >= NEARLY_ALL)
    return (low, high) if enough and _neighbours(torch.unique(places[near].round())) else None


def _near(levels: Tensor) -> Tensor:
    return (levels - levels.round()).abs() < NEAR


def _neighbours(levels: Tensor) -> bool:
    """Whether the levels that occur are many and have no common step but 1."""
    steps = (levels[1:] - levels[:-1]).long()
    return len(steps) > 8 and int(_gcd(steps)) == 1


def _gcd(values: Tensor) -> Tensor:
    found = values[0]
    for value in values[1:]:
        found = torch.gcd(found, value)
    return found


def _some(values: Tensor) -> Tensor:
    flat = values.flatten()
    return flat if len(flat) <= SAMPLE else flat[:: -(-len(flat) // SAMPLE)]
