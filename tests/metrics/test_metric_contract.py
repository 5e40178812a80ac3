"""What every registered metric keeps, whatever it measures."""

import math
from dataclasses import fields

import pytest
import torch
from torch import nn

from fl_audit.core.errors import ConfigError
from fl_audit.metrics import Context, Metric, metrics

UNITS = [cls() for _, cls in metrics]
PER_IMAGE = [unit for unit in UNITS if unit.per_image and unit.unavailable() is None]
NAMES = [
    "classifier-agreement",
    "feature-distance",
    "fid",
    "frechet-semsim",
    "identification",
    "identification-top5",
    "iip",
    "lpips",
    "lpips-squeeze",
    "lpips-vgg",
    "ms-ssim",
    "mse",
    "psnr",
    "rdlv",
    "semsim",
    "ssim",
]


def images(n: int = 4, shape: tuple[int, int, int] = (3, 16, 16), seed: int = 0) -> torch.Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def context(x: torch.Tensor) -> Context:
    """All that a metric may want besides the images; with twenty others of client and data."""
    shape = (x.shape[1], x.shape[2], x.shape[3])
    generator = torch.Generator().manual_seed(9)
    model = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 20), nn.Tanh(), nn.Linear(20, 7))
    for weight in model.parameters():
        nn.init.normal_(weight, generator=generator)
    client, others = images(20, shape, seed=5).to(x.device), images(20, shape, seed=6).to(x.device)
    return Context(
        model=model.eval().to(x.device),
        labels=torch.arange(len(x)),
        client=torch.cat([x.clamp(0, 1), client]),
        others=others,
        prior=x * 0.5 + 0.25,
    )


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
    known = context(x)
    near = (x + 0.05 * images(shape=shape, seed=1)).clamp(0, 1)
    same, close, far = (unit.score(x, y, known) for y in (x, near, images(shape=shape, seed=2)))
    best = unit.range[1] if unit.better == "higher" else unit.range[0]
    if math.isfinite(best):
        assert same.tolist() == pytest.approx([best] * 4)
    sign = 1 if unit.better == "higher" else -1
    if {*same.tolist(), *close.tolist(), *far.tolist()} <= {0, 1}:  # a yes or no: nothing lies in between
        assert float(same.mean()) >= float(close.mean()) >= float(far.mean())
        assert float(same.mean()) > float(far.mean())
    else:
        assert bool((sign * same > sign * close).all())
        assert bool((sign * close > sign * far).all())
    assert same.dtype == torch.float64
    assert same.device.type == "cpu"


@pytest.mark.parametrize("unit", PER_IMAGE, ids=lambda unit: unit.name)
def test_scores_do_not_depend_on_the_batch(unit: Metric) -> None:
    x, y = images(), images(seed=1)
    known = context(x)
    whole = unit.score(x, y, known)
    rows = [torch.arange(4) == i for i in range(4)]
    alone = torch.cat([unit.score(x[row], y[row], known.rows(row)) for row in rows])
    assert torch.allclose(whole, alone, rtol=1e-12 if not unit.wants else 1e-5)
    assert not bool(whole.isnan().any())


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_unmeasured_is_nan_with_a_reason(unit: Metric) -> None:
    x, y = images(5), images(5, seed=1)
    y[1, 0, 0, 0] = math.nan
    y[2, 1, 3, 3] = math.inf
    y[3] = 4 * y[3] - 2
    scores = unit.grade(x, y, context(x))
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
    for name in ("lpips", "lpips:vgg", "fid"):
        scores = metrics.create(name).grade(x, y)
        assert bool(scores.values.isnan().all())
        assert set(scores.reasons) == {metrics.create(name).unavailable()}


@pytest.mark.parametrize("unit", [unit for unit in UNITS if unit.wants], ids=lambda unit: unit.name)
def test_what_is_not_known_is_named(unit: Metric) -> None:
    x = images()
    known = context(x)
    assert unit.wants <= {field.name for field in fields(Context)}
    for name in unit.wants:
        lacking = Context(
            **{field.name: getattr(known, field.name) for field in fields(Context) if field.name != name}
        )
        scores = unit.grade(x, x, lacking)
        assert bool(scores.values.isnan().all())
        assert all(reason is not None and reason.startswith("not known here: ") for reason in scores.reasons)
    assert unit.score(x[:0], x[:0], known.rows(torch.zeros(4, dtype=torch.bool))).numel() == 0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"client": torch.rand(2, 3, 8, 8)}, "client: expected images like"),
        ({"others": 3 * torch.rand(2, 3, 16, 16)}, "others: expected values in"),
        ({"prior": torch.rand(2, 3, 16, 16)}, "prior: expected images like"),
        ({"labels": torch.zeros(2)}, "labels: expected one for each of 4"),
    ],
)
def test_a_context_that_does_not_fit_is_refused(wrong: dict[str, torch.Tensor], words: str) -> None:
    x = images()
    with pytest.raises(ValueError, match=words):
        metrics.create("mse").grade(
            x,
            x,
            Context(
                client=wrong.get("client"),
                others=wrong.get("others"),
                prior=wrong.get("prior"),
                labels=wrong.get("labels"),
            ),
        )


def test_a_tiny_overshoot_is_rounding() -> None:
    x = torch.ones(1, 1, 8, 8)
    assert metrics.create("mse").score(x, x + 1e-6).tolist() == [0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("unit", PER_IMAGE, ids=lambda unit: unit.name)
def test_a_gpu_gives_the_same_scores(unit: Metric) -> None:
    x, y = images(), images(seed=1)
    y[2, 0, 0, 0] = math.nan
    here, there = unit.score(x, y, context(x)), unit.score(x.cuda(), y.cuda(), context(x.cuda()))
    assert there.device.type == "cpu"
    assert torch.allclose(here, there, rtol=1e-6, equal_nan=True)
