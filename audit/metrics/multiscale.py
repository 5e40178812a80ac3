"""Multi-scale structural similarity."""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from fl_audit.metrics._base import Metric
from fl_audit.metrics._registry import metrics
from fl_audit.metrics.structure import WINDOW, similarity

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales, the finest first (section 3.2 of the paper), which sum to 1.0001."""


def scales(height: int, width: int) -> int:
    """How many scales images of this size have: at most five, each at least as large as the window of 11."""
    side, count = min(height, width), 1
    while count < len(WEIGHTS) and (side + 1) // 2 >= WINDOW:
        side, count = (side + 1) // 2, count + 1
    return count


def ms_ssim(x: Tensor, y: Tensor, *, data_range: float = 1.0) -> Tensor:
    """Multi-scale structural similarity of each image, mean over channels.

    Wang, Simoncelli and Bovik, "Multiscale structural similarity for image quality assessment", Asilomar
    2003, https://doi.org/10.1109/ACSSC.2003.1292216, equation 7: contrast and structure at every scale,
    luminance at the coarsest, each halving a mean of two by two pixels (an odd last row or column is
    repeated). The window and constants are those of `ssim`; a negative mean, which has no power, counts as 0.

    Five scales need 161 pixels. A smaller image gets as many as are at least 11 pixels wide, and their
    weights are scaled to sum to 1: 32 pixels give two scales, and with a single one (20 pixels or fewer) what
    is left is `ssim`, negative values as 0.

    Args:
        x: images ``(N, C, H, W)`` in a range of the width ``data_range``.
        y: the same shape and range.
        data_range: largest minus smallest possible value; 1 for images in [0, 1].

    Returns:
        float64 ``(N,)`` in [0, 1].
    """
    count = scales(*x.shape[2:])
    weights = WEIGHTS if count == len(WEIGHTS) else [w / sum(WEIGHTS[:count]) for w in WEIGHTS[:count]]
    a, b = x.double(), y.double()
    result = torch.ones(x.shape[:2], dtype=torch.float64, device=x.device)
    for scale, weight in enumerate(weights):
        if scale:
            a, b = _halve(a), _halve(b)
        luminance, structure = similarity(a, b, data_range=data_range)
        last = scale == count - 1
        mean = (luminance * structure if last else structure).flatten(2).mean(2)
        result = result * mean.clamp(min=0) ** weight
    return result.mean(1)


@metrics.register("ms-ssim")
class MsSsim(Metric):
    """Structural similarity over up to five scales (Wang et al. 2003), fewer for small images."""

    better = "higher"
    range = (0.0, 1.0)
    brief = False

    def _score(self, originals: Tensor, reconstructions: Tensor) -> Tensor:
        return ms_ssim(originals, reconstructions, data_range=1.0)


def _halve(images: Tensor) -> Tensor:
    height, width = images.shape[2:]
    return avg_pool2d(pad(images, (0, width % 2, 0, height % 2), mode="replicate"), 2)
