"""Structural similarity."""

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from fl_audit.metrics._base import Metric
from fl_audit.metrics._registry import metrics

WINDOW = 11
SIGMA = 1.5


def ssim(x: Tensor, y: Tensor, *, data_range: float = 1.0) -> Tensor:
    """Structural similarity of each image, mean over windows and channels.

    Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to structural
    similarity", IEEE TIP 2004, https://doi.org/10.1109/TIP.2003.819861, equation 13: 11x11 Gaussian window
    with standard deviation 1.5, K1 = 0.01, K2 = 0.03, population covariance, only windows that lie within
    the image. Equal to scikit-image's ``structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False)``. Images of fewer than 11 pixels, which scikit-image refuses, get the
    largest odd window that fits, with the same standard deviation.

    Args:
        x: images ``(N, C, H, W)`` in a range of the width ``data_range``.
        y: the same shape and range.
        data_range: largest minus smallest possible value; 1 for images in [0, 1].

    Returns:
        float64 ``(N,)`` in [-1, 1].
    """
    luminance, structure = similarity(x, y, data_range=data_range)
    return (luminance * structure).flatten(1).mean(1)


def similarity(x: Tensor, y: Tensor, *, data_range: float) -> tuple[Tensor, Tensor]:
    """Luminance term, and contrast times structure, of every window: float64 ``(N, C, H', W')`` each.

    Equations 6, and 9 times 10, of the paper of `ssim`.
    """
    window = gaussian(min(WINDOW, *((side - 1) // 2 * 2 + 1 for side in x.shape[2:])), x.device)
    a, b = x.double().flatten(0, 1)[:, None], y.double().flatten(0, 1)[:, None]

    def local(images: Tensor) -> Tensor:
        return conv2d(conv2d(images, window[None, None, :, None]), window[None, None, None, :])

    mean_a, mean_b = local(a), local(b)
    var_a = local(a * a) - mean_a * mean_a
    var_b = local(b * b) - mean_b * mean_b
    covariance = local(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a * mean_a + mean_b * mean_b + c1)
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    shape = (*x.shape[:2], *luminance.shape[2:])
    return luminance.reshape(shape), structure.reshape(shape)


def gaussian(size: int, device: torch.device) -> Tensor:
    """Gaussian weights that sum to 1, float64 ``(size,)``; ``size`` is odd."""
    offsets = torch.arange(size, dtype=torch.float64, device=device) - size // 2
    weights = torch.exp(-0.5 * (offsets / SIGMA) ** 2)
    return weights / weights.sum()


@metrics.register("ssim")
class Ssim(Metric):
    """Structural similarity of each image (Wang et al. 2004), 11x11 Gaussian window."""

    better = "higher"
    range = (-1.0, 1.0)

    def _score(self, originals: Tensor, reconstructions: Tensor) -> Tensor:
        return ssim(originals, reconstructions, data_range=1.0)
