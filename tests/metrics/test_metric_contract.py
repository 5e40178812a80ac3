"""What every registered metric keeps, whatever it measures."""

import math

import pytest
import torch

from fl_audit.core.errors import ConfigError
from fl_audit.metrics import Metric, metrics

UNITS = [cls() for _, cls in metrics]
PER_IMAGE = [unit for unit in UNITS if unit.per_image and unit.unavailable() is None]
NAMES = ["fid", "lpips", "mse", "psnr", "semsim", "ssim"]


def images(n: int = 4, shape: tuple[int, int, int] = (3, 16, 16), seed: int = 0) -> torch.Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def test_the_metrics_of_the_tool_are_there() -> None:
    assert set(NAMES) <= set(metrics.names())
    with pytest.raises(ConfigError, match="Did you mean 'ssim'"):
        metrics.create("ssmi")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_declarations(unit: Metric) -> None:
    assert unit.better in ("higher", "lower")
    assert unit.range[0] < unit.range[1]
    assert unit.summary()
    assert all(field.description for field in type(unit).model_fields.values())
    if unit.needs is None:
        assert unit.unavailable() is None


@pytest.mark.parametrize("unit", PER_IMAGE, ids=lambda unit: unit.name)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 24)], ids=str)
def test_identical_images_score_best(unit: Metric, shape: tuple[int, int, int]) -> None:
    x = images(shape=shape)
    near = (x + 0.05 * images(shape=shape, seed=1)).clamp(0, 1)
    same, close, far = unit.score(x, x), unit.score(x, near), unit.score(x, images(shape=shape, seed=2))
    best = unit.range[1] if unit.better == "higher" else unit.range[0]
    assert same.tolist() == pytest.approx([best] * 4)
    sign = 1 if unit.better == "higher" else -1
    assert bool((sign * same > sign * close).all())
    assert bool((sign * close > sign * far).all())
    assert same.dtype == torch.float64
    assert same.device.type == "cpu"


@pytest.mark.parametrize("unit", PER_IMAGE, ids=lambda unit: unit.name)
def test_scores_do_not_depend_on_the_batch(unit: Metric) -> None:
    x, y = images(), images(seed=1)
    whole = unit.score(x, y)
    alone = torch.cat([unit.score(x[i : i + 1], y[i : i + 1]) for i in range(4)])
    assert torch.allclose(whole, alone, rtol=1e-12)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_unmeasured_is_nan_with_a_reason(unit: Metric) -> None:
    x, y = images(5), images(5, seed=1)
    y[1, 0, 0, 0] = math.nan
    y[2, 1, 3, 3] = math.inf
    y[3] = 4 * y[3] - 2
    scores = unit.grade(x, y)
    assert len(scores.reasons) == len(scores.values) == (5 if unit.per_image else 1)
    for value, reason in zip(scores.values.tolist(), scores.reasons, strict=True):
        assert math.isnan(value) == (reason is not None)
    if unit in PER_IMAGE:
        assert scores.values.isnan().tolist() == [False, True, True, True, False]
        assert "NaN or inf" in str(scores.reasons[1])
        assert "leaves [0, 1]" in str(scores.reasons[3])


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_wrong_images_are_refused(unit: Metric) -> None:
    x = images()
    for y in (images(3), images(shape=(3, 16, 15)), images(shape=(1, 16, 16)), x.double()):
        with pytest.raises(ValueError, match="expected float32 .* like the originals, got"):
            unit.score(x, y)
    with pytest.raises(ValueError, match=r"originals: expected values in \[0, 1\]"):
        unit.score(4 * x - 2, x)
    assert unit.score(x[:0], x[:0]).numel() == (0 if unit.per_image else 1)


def test_missing_weights_are_a_state_and_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: "no-such-folder")
    x, y = images(60), images(60, seed=1)
    for name in ("lpips", "lpips:vgg", "fid", "semsim"):
        scores = metrics.create(name).grade(x, y)
        assert bool(scores.values.isnan().all())
        assert set(scores.reasons) == {metrics.create(name).unavailable()}


def test_a_tiny_overshoot_is_rounding() -> None:
    x = torch.ones(1, 1, 8, 8)
    assert metrics.create("mse").score(x, x + 1e-6).tolist() == [0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("unit", PER_IMAGE, ids=lambda unit: unit.name)
def test_a_gpu_gives_the_same_scores(unit: Metric) -> None:
    x, y = images(), images(seed=1)
    y[2, 0, 0, 0] = math.nan
    here, there = unit.score(x, y), unit.score(x.cuda(), y.cuda())
    assert there.device.type == "cpu"
    assert torch.allclose(here, there, rtol=1e-6, equal_nan=True)
