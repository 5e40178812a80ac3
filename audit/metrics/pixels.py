"""Pixel-wise distances: mean squared error and peak signal-to-noise ratio."""

import torch
from torch import Tensor

from fl_audit.metrics._base import Metric
from fl_audit.metrics._registry import metrics

PSNR_CAP = 100.0
"""dB. Identical images have infinite PSNR; what exceeds this is reported as this."""


def mse(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared error of each image: ``mean((x - y)^2)`` over channels and pixels.

    Args:
        x: images ``(N, C, H, W)``.
        y: the same shape.

    Returns:
        float64 ``(N,)``.
    """
    return (x.double() - y.double()).square().flatten(1).mean(1)


def psnr(x: Tensor, y: Tensor, *, data_range: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB: ``10 log10(data_range^2 / mse)``, at most `PSNR_CAP`.

    Args:
        x: images ``(N, C, H, W)`` in a range of the width ``data_range``.
        y: the same shape and range.
        data_range: largest minus smallest possible value; 1 for images in [0, 1].

    Returns:
        float64 ``(N,)``.
    """
    return (10 * torch.log10(data_range**2 / mse(x, y))).clamp(max=PSNR_CAP)


@metrics.register("mse")
class Mse(Metric):
    """Mean squared error of the pixels, in [0, 1]."""

    better = "lower"
    range = (0.0, 1.0)

    def _score(self, originals: Tensor, reconstructions: Tensor) -> Tensor:
        return mse(originals, reconstructions)


@metrics.register("psnr")
class Psnr(Metric):
    """Peak signal-to-noise ratio in dB, of each image, data range 1, at most 100."""

    better = "higher"
    range = (0.0, PSNR_CAP)
    label = "PSNR (dB)"

    def _score(self, originals: Tensor, reconstructions: Tensor) -> Tensor:
        return psnr(originals, reconstructions, data_range=1.0)
