"""What natural images look like: penalties on the images themselves."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Prior(Protocol):
    """A penalty on images: lower looks more natural."""

    def __call__(self, images: Tensor) -> Tensor:
        """Weighted penalties ``(R,)`` for images ``(R, N, C, H, W)``."""


@dataclass(frozen=True)
class TotalVariation:
    """`total_variation` times ``weight``."""

    weight: float

    def __call__(self, images: Tensor) -> Tensor:
        """See `Prior`."""
        return self.weight * total_variation(images)


def total_variation(images: Tensor) -> Tensor:
    """Anisotropic total variation: mean absolute step down plus mean absolute step right, ``(R,)``.

    Rudin, Osher and Fatemi, "Nonlinear total variation based noise removal algorithms", 1992, in the
    anisotropic form of Geiping et al. 2020. Means run over images, channels and pixels; an image one
    pixel high or wide has no steps that way.

    Args:
        images: ``(R, N, C, H, W)``.
    """
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().flatten(1)
    right = (images[..., :, 1:] - images[..., :, :-1]).abs().flatten(1)
    return down.sum(1) / max(down.shape[1], 1) + right.sum(1) / max(right.shape[1], 1)
