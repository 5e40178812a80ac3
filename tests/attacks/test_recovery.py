"""The attacks recover what they should: real optimisation on small nets, and the closed form."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fl_audit.attacks import attacks
from fl_audit.core.types import Reconstruction, TrainingDetails
from tests.attacks.cases import CPU, NETS, Case, make_case


def psnr(image: Tensor, other: Tensor) -> float:
    return float(-10 * (image - other).square().mean().clamp(min=1e-20).log10())


def run(spec: str, case: Case) -> Reconstruction:
    result = attacks.create(spec).run(case.update, case.knowledge, seed=0, device=CPU)
    assert (result.status, result.reason) == ("done", None)
    return result


@pytest.mark.parametrize("granted", [True, False], ids=["level C with labels", "level B"])
@pytest.mark.parametrize("spec", ["inverting-gradients:tv=0", "inverting-gradients:tv=0,restarts=2", "dlg"])
def test_one_image_is_recovered(spec: str, granted: bool) -> None:
    case = make_case(labels=(3,), classes=10, grant_training=granted, grant_labels=granted)
    result = run(spec, case)
    assert result.images is not None
    assert psnr(result.images, case.images) > 30


def test_two_steps_of_local_training_are_unrolled() -> None:
    training = TrainingDetails(learning_rate=0.1, momentum=0.9, local_steps=2, batch_size=1)
    case = make_case(labels=(3, 7), classes=10, training=training)
    result = run("dlg", case)
    assert result.images is not None
    assert min(psnr(a, b) for a, b in zip(result.images, case.images, strict=True)) > 25


@pytest.mark.parametrize("granted", [True, False])
@pytest.mark.parametrize("rate", [0.001, 0.1])
def test_analytic_is_exact_for_one_image(rate: float, granted: bool) -> None:
    training = TrainingDetails(learning_rate=rate)
    case = make_case("dense", labels=(1,), shape=(3, 8, 8), training=training, grant_training=granted)
    result = run("analytic", case)
    assert result.images is not None
    if rate == 0.1:
        assert float((result.images - case.images).abs().max()) < 1e-5
    assert psnr(result.images, case.images) > 60


def test_analytic_separates_a_batch_and_says_how_much_is_confirmed() -> None:
    case = make_case("dense", labels=(0, 1, 1), shape=(3, 8, 8))
    result = run("analytic", case)
    assert result.images is not None
    best = [max(psnr(image, found) for found in result.images) for image in case.images]
    assert min(best) > 60
    assert any("3 of 3 images are confirmed" in note for note in result.notes)
    assert result.objective < 1e-4


def conv_first(shape: tuple[int, int, int], classes: int) -> nn.Module:
    height, width = shape[1:]
    return nn.Sequential(
        nn.Conv2d(shape[0], shape[0], 3, padding=1), nn.Flatten(), nn.Linear(height * width, classes)
    )


def no_bias(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2], classes, bias=False))


def no_linear(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(shape[0], classes, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


REFUSED = {
    "small": "does not see the image: its input has shape",
    "conv first": "pixel by pixel",
    "no bias": "'1' has no bias",
    "no linear": "no linear layer",
}


@pytest.mark.parametrize("net", REFUSED)
def test_analytic_refuses_other_models_with_the_reason(net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, build in (("conv first", conv_first), ("no bias", no_bias), ("no linear", no_linear)):
        monkeypatch.setitem(NETS, name, build)
    case = make_case(net)
    result = attacks.create("analytic").run(case.update, case.knowledge, seed=0, device=CPU)
    assert result.status == "failed"
    assert REFUSED[net] in (result.reason or "")


@pytest.mark.parametrize("spec", ["inverting-gradients:tv=0", "dlg"])
def test_a_clipped_update_does_not_hide_the_image(spec: str) -> None:
    case = make_case(labels=(3,), classes=10)
    sent, received = case.update.sent, case.update.received
    clipped = {name: sent[name] + 0.01 * (received[name] - sent[name]) for name in sent}
    result = run(spec, replace(case, update=replace(case.update, received=clipped)))
    assert result.images is not None
    assert psnr(result.images, case.images) > 25


def test_the_squared_error_of_the_paper_needs_the_scale() -> None:
    case = make_case(labels=(3,), classes=10)
    result = run("dlg:scale=exact", case)
    assert result.images is not None
    assert psnr(result.images, case.images) > 30
    blind = replace(case.knowledge, training=None)
    refused = attacks.create("dlg:scale=exact").run(case.update, blind, seed=0, device=CPU)
    assert refused.status == "failed"
    assert "learning rate" in (refused.reason or "")


def test_another_seed_is_another_start() -> None:
    case = make_case(labels=(3,), classes=10)
    unit = attacks.create("inverting-gradients:iterations=2")
    first = unit.run(case.update, case.knowledge, seed=0, device=CPU)
    second = unit.run(case.update, case.knowledge, seed=1, device=CPU)
    assert first.images is not None
    assert second.images is not None
    assert not torch.equal(first.images, second.images)
