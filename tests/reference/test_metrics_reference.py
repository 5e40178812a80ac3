"""Our metrics against independent implementations, at written tolerances."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import scipy.signal
import skimage.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_audit.metrics import PSNR_CAP, frechet_distance, mse, psnr, ssim
from fl_audit.metrics.multiscale import WEIGHTS, ms_ssim, scales

SSIM_TOLERANCE = 1e-6
PIXEL_TOLERANCE = 1e-9

# Untyped in scikit-image.
mean_squared_error: Callable[..., float] = skimage.metrics.mean_squared_error
peak_signal_noise_ratio: Callable[..., float] = skimage.metrics.peak_signal_noise_ratio
structural_similarity: Callable[..., float] = skimage.metrics.structural_similarity

SHAPES = st.tuples(st.integers(1, 3), st.sampled_from([1, 3]), st.integers(11, 40), st.integers(11, 40))


def pair(shape: tuple[int, ...], seed: int, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    smooth = rng.random((*shape[:2], 4, 4))
    x = torch.nn.functional.interpolate(torch.from_numpy(smooth), shape[2:], mode="bilinear")
    y = (x + noise * torch.from_numpy(rng.standard_normal(shape))).clamp(0, 1)
    return x.float(), y.float()


def images(x: torch.Tensor) -> list[np.ndarray]:
    return list(x.double().permute(0, 2, 3, 1).numpy())


@settings(max_examples=60, deadline=None)
@given(shape=SHAPES, seed=st.integers(0, 1000), noise=st.sampled_from([0.0, 1e-3, 0.05, 0.3, 2.0]))
def test_ssim_is_scikit_images(shape: tuple[int, ...], seed: int, noise: float) -> None:
    x, y = pair(shape, seed, noise)
    expected = [
        structural_similarity(
            a,
            b,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1,
            channel_axis=-1,
        )
        for a, b in zip(images(x), images(y), strict=True)
    ]
    assert ssim(x, y).tolist() == pytest.approx(expected, abs=SSIM_TOLERANCE)


@settings(max_examples=60, deadline=None)
@given(shape=SHAPES, seed=st.integers(0, 1000), noise=st.sampled_from([1e-3, 0.05, 0.3]))
def test_mse_and_psnr_are_scikit_images(shape: tuple[int, ...], seed: int, noise: float) -> None:
    x, y = pair(shape, seed, noise)
    errors = [mean_squared_error(a, b) for a, b in zip(images(x), images(y), strict=True)]
    ratios = [peak_signal_noise_ratio(a, b, data_range=1) for a, b in zip(images(x), images(y), strict=True)]
    assert mse(x, y).tolist() == pytest.approx(errors, rel=PIXEL_TOLERANCE)
    assert psnr(x, y).tolist() == pytest.approx(ratios, abs=1e-6)


def slow_ssim(a: np.ndarray, b: np.ndarray, size: int) -> float:
    """Equation 13 of Wang et al., window by window, on one channel."""
    offsets = np.arange(size) - size // 2
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for top in range(a.shape[0] - size + 1):
        for left in range(a.shape[1] - size + 1):
            p, q = (c[top : top + size, left : left + size].astype(np.float64) for c in (a, b))
            mp, mq = (weights * p).sum(), (weights * q).sum()
            vp, vq = (weights * (p - mp) ** 2).sum(), (weights * (q - mq) ** 2).sum()
            cov = (weights * (p - mp) * (q - mq)).sum()
            values.append(
                (2 * mp * mq + 1e-4) * (2 * cov + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4))
            )
    return float(np.mean(values))


@pytest.mark.parametrize(("shape", "size"), [((8, 8), 7), ((9, 30), 9), ((10, 10), 9), ((13, 12), 11)])
def test_ssim_of_small_images_is_the_papers_equation(shape: tuple[int, int], size: int) -> None:
    x, y = pair((3, 1, *shape), 0, 0.1)
    expected = [slow_ssim(a, b, size) for a, b in zip(x[:, 0].numpy(), y[:, 0].numpy(), strict=True)]
    assert ssim(x, y).tolist() == pytest.approx(expected, abs=SSIM_TOLERANCE)


MS_SSIM_TOLERANCE = 1e-9

MS_SSIM_BY_PYTORCH_MSSSIM = {
    ((2, 1, 176, 176), 0.02): (0.990978577549, 0.990947681235),
    ((2, 1, 176, 176), 0.4): (0.522984474204, 0.526525182801),
    ((2, 3, 192, 208), 0.1): (0.865189516707, 0.869565647224),
}
"""What pytorch-msssim 1.0.0 says in double precision (its Gaussian window given to it in double, too)."""


@pytest.mark.parametrize(("case", "expected"), MS_SSIM_BY_PYTORCH_MSSSIM.items(), ids=str)
def test_ms_ssim_is_pytorch_msssims(
    case: tuple[tuple[int, ...], float], expected: tuple[float, float]
) -> None:
    shape, noise = case
    rng = np.random.default_rng(3)
    smooth = torch.from_numpy(rng.random((*shape[:2], 12, 12)))
    x = torch.nn.functional.interpolate(smooth, shape[2:], mode="bilinear")
    y = (x + noise * torch.from_numpy(rng.standard_normal(shape))).clamp(0, 1)
    assert ms_ssim(x.float(), y.float()).tolist() == pytest.approx(expected, abs=MS_SSIM_TOLERANCE)


def slow_ms_ssim(a: np.ndarray, b: np.ndarray, weights: list[float]) -> float:
    """Equation 7 of Wang, Simoncelli and Bovik on one channel, by scipy's correlation with a 2-D window."""
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    result = 1.0
    for scale, weight in enumerate(weights):
        if scale:
            a, b = (
                np.pad(c, [(0, c.shape[0] % 2), (0, c.shape[1] % 2)], mode="edge")
                .reshape((c.shape[0] + 1) // 2, 2, (c.shape[1] + 1) // 2, 2)
                .mean((1, 3))
                for c in (a, b)
            )

        def mean(image: np.ndarray) -> np.ndarray:
            return np.asarray(scipy.signal.correlate2d(image, window, mode="valid"))

        ma, mb = mean(a), mean(b)
        va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
        value = (2 * cov + 9e-4) / (va + vb + 9e-4)
        if scale == len(weights) - 1:
            value = value * (2 * ma * mb + 1e-4) / (ma**2 + mb**2 + 1e-4)
        result *= max(value.mean(), 0.0) ** weight
    return result


@pytest.mark.parametrize(
    ("shape", "count"),
    [((20, 40), 1), ((21, 40), 2), ((32, 32), 2), ((43, 45), 3), ((83, 81), 4), ((161, 170), 5)],
)
@pytest.mark.parametrize("noise", [0.02, 0.3])
def test_small_images_have_fewer_scales(shape: tuple[int, int], count: int, noise: float) -> None:
    assert scales(*shape) == count
    x, y = pair((2, 3, *shape), 1, noise)
    weights = np.array(WEIGHTS[:count])
    weights = weights if count == 5 else weights / weights.sum()
    expected = [
        np.mean([slow_ms_ssim(a[c], b[c], weights.tolist()) for c in range(3)])
        for a, b in zip(x.double().numpy(), y.double().numpy(), strict=True)
    ]
    assert ms_ssim(x, y).tolist() == pytest.approx(expected, abs=MS_SSIM_TOLERANCE)
    if count == 1:
        assert ms_ssim(x, y).tolist() == pytest.approx(ssim(x, y).tolist())


def test_a_negative_mean_counts_as_zero() -> None:
    x, _ = pair((2, 1, 16, 16), 0, 0)
    assert float(ssim(x, 1 - x).max()) < 0
    assert ms_ssim(x, 1 - x).tolist() == [0, 0]


def test_closed_forms() -> None:
    x = torch.zeros(3, 1, 16, 16)
    y = torch.stack([torch.full((1, 16, 16), value) for value in (0.0, 0.1, 1.0)])
    assert mse(x, y).tolist() == pytest.approx([0, 0.01, 1])
    assert psnr(x, y).tolist() == pytest.approx([PSNR_CAP, 20, 0], abs=1e-5)
    # Constant images differ in luminance only: (2ab + c1) / (a^2 + b^2 + c1).
    assert ssim(x, y).tolist() == pytest.approx([1, 1e-4 / (0.01 + 1e-4), 1e-4 / (1 + 1e-4)], rel=1e-5)
    assert psnr(255 * x, 255 * y, data_range=255).tolist() == pytest.approx([PSNR_CAP, 20, 0], abs=1e-5)


@pytest.mark.parametrize(("n", "m", "d"), [(50, 40, 5), (200, 300, 16), (4, 6, 10)])
def test_the_frechet_distance_is_that_of_the_formula(n: int, m: int, d: int) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((n, d)) @ rng.standard_normal((d, d)), rng.standard_normal((m, d)) + 0.5
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    # Gives a little way where the covariance is singular: the matrix root is inexact there, ours is not.
    root = scipy.linalg.sqrtm(a @ b).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root)
    value = frechet_distance(torch.from_numpy(x), torch.from_numpy(y))
    assert float(value) == pytest.approx(expected, rel=1e-9 if min(n, m) > d else 1e-3)


def test_the_frechet_distance_of_a_shift_is_its_square() -> None:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((30, 64)))
    shift = torch.full((64,), 0.25)
    assert float(frechet_distance(x, x)) == pytest.approx(0, abs=1e-9)
    assert float(frechet_distance(x, x + shift)) == pytest.approx(64 * 0.25**2)
