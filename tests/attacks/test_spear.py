"""Spear recovers whole batches exactly, and says so where it cannot."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from skimage.data import lfw_subset
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fl_audit.attacks import AttackFailed, attacks
from fl_audit.attacks.spear import Recovered, recover_inputs
from fl_audit.core.seeding import seeded_globals, torch_generator
from fl_audit.core.types import Reconstruction, TrainingDetails
from tests.attacks.cases import CPU, NETS, Case, Centre, make_case, snapshot, train


def wide(middle: nn.Module | None = None, *, width: int = 200, bias: bool = True) -> Callable[..., nn.Module]:
    """A net of one hidden layer."""

    def build(shape: tuple[int, int, int], classes: int) -> nn.Module:
        return nn.Sequential(
            Centre(),
            nn.Flatten(),
            nn.Linear(shape[0] * shape[1] * shape[2], width, bias=bias),
            nn.ReLU() if middle is None else middle,
            nn.Linear(width, classes),
        )

    return build


def faces_of_lfw() -> Tensor:
    """Grey crops, 100 faces first, ``(200, 25, 25)`` in [0, 1]."""
    return torch.from_numpy(lfw_subset()).float()  # type: ignore[no-untyped-call]


def run(case: Case, spec: str = "spear", seed: int = 0) -> Reconstruction:
    return attacks.create(spec).run(case.update, case.knowledge, seed=seed, device=CPU)


def worst(truth: Tensor, found: Tensor) -> float:
    """Largest error of any value under the best one-to-one assignment."""
    assert len(truth) == len(found)
    cost = (truth.flatten(1)[:, None] - found.flatten(1)[None]).abs().amax(2)
    rows, columns = linear_sum_assignment(cost.numpy())
    return float(cost[rows, columns].max())


def gradients(inputs: Tensor, labels: Tensor, *, width: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Weight gradient, bias gradient, weight and bias of a layer, by autograd in the inputs' precision."""
    with seeded_globals(seed, "layer"):
        net = nn.Sequential(nn.Linear(inputs.shape[1], width), nn.ReLU(), nn.Linear(width, 10))
    net.to(inputs.dtype)
    torch.autograd.backward(cross_entropy(net(inputs), labels))
    layer = net[0]
    assert isinstance(layer, nn.Linear)
    assert layer.weight.grad is not None
    assert layer.bias.grad is not None
    parts = (layer.weight.grad, layer.bias.grad, layer.weight.detach(), layer.bias.detach())
    return tuple(part.double() for part in parts)


def recover(parts: tuple[Tensor, ...], expected: int | None = None, samples: int = 20_000) -> Recovered:
    weight_gradient, bias_gradient, weight, bias = parts
    return recover_inputs(
        weight_gradient,
        bias_gradient,
        weight,
        bias,
        generator=torch_generator(0, "draws"),
        expected=expected,
        samples=samples,
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_faces_are_recovered_from_float32_gradients(count: int, seed: int) -> None:
    generator = torch_generator(seed, "faces")
    faces = faces_of_lfw().flatten(1)
    inputs = faces[torch.randperm(100, generator=generator)[:count]]
    labels = torch.randint(10, (count,), generator=generator)
    found = recover(gradients(inputs, labels, width=200, seed=seed))
    assert worst(inputs.double(), found.inputs) < 1e-6
    assert bool((found.agreement == 1).all())
    assert found.unexplained < 1e-6


@pytest.mark.parametrize("factor", [1.0, 1e-3, 50.0])
def test_the_output_gradient_is_that_of_autograd(factor: float) -> None:
    inputs = torch.rand(4, 100, generator=torch_generator(0, "inputs"), dtype=torch.float64)
    labels = torch.tensor([0, 3, 3, 7])
    weight_gradient, bias_gradient, weight, bias = gradients(inputs, labels, width=200)
    found = recover((factor * weight_gradient, factor * bias_gradient, weight, bias))
    assert worst(inputs, found.inputs) < 1e-9
    on = (found.inputs @ weight.T + bias > 0).T
    assert bool((found.output_gradient[~on] == 0).all())
    assert torch.allclose(found.output_gradient.sum(1), factor * bias_gradient, rtol=0, atol=1e-9 * factor)
    product = found.output_gradient @ found.inputs
    assert torch.allclose(product, factor * weight_gradient, rtol=0, atol=1e-9 * factor)


def test_the_rank_tells_the_number_of_inputs_and_equal_ones_come_out_once() -> None:
    inputs = torch.rand(3, 100, generator=torch_generator(0, "inputs"))
    doubled = inputs[[0, 1, 2, 1]]
    found = recover(gradients(doubled, torch.tensor([0, 1, 2, 1]), width=200), expected=4)
    assert worst(inputs.double(), found.inputs) < 1e-6


@pytest.mark.parametrize(("labels", "classes"), [((0, 1, 1, 0, 1), 2), ((3,) * 5, 10)])
def test_two_classes_and_one_label_are_no_obstacle(
    labels: tuple[int, ...], classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NETS, "wide", wide())
    case = make_case("wide", labels=labels, classes=classes, shape=(3, 8, 8))
    result = run(case)
    assert (result.status, result.reason) == ("done", None)
    assert result.images is not None
    assert worst(case.images, result.images) < 1e-4
    assert any("5 of 5 images agree" in note for note in result.notes)
    assert result.objective < 1e-4


@pytest.mark.parametrize("granted", [True, False], ids=["level C", "level B"])
def test_real_images_in_an_update_are_recovered(granted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETS, "wide", wide(width=300))
    labels = (0, 1, 2, 3, 4, 5, 6, 7)
    case = make_case("wide", labels=labels, classes=10, shape=(1, 25, 25), grant_training=granted)
    faces = faces_of_lfw()[10:18, None]
    with seeded_globals(0, "weights"):
        client = NETS["wide"]((1, 25, 25), 10)
    client.load_state_dict(dict(case.update.sent))
    train(client, faces, torch.tensor(labels), TrainingDetails(batch_size=8))
    result = run(replace(case, update=replace(case.update, received=snapshot(client))))
    assert (result.status, result.reason) == ("done", None)
    assert result.images is not None
    assert worst(faces, result.images) < 1e-4


def test_several_local_steps_with_weight_decay_are_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETS, "wide", wide())
    training = TrainingDetails(
        learning_rate=0.05, momentum=0.9, weight_decay=0.01, local_steps=2, batch_size=2
    )
    case = make_case("wide", labels=(0, 1, 2, 3), classes=10, shape=(3, 8, 8), training=training)
    result = run(case)
    assert (result.status, result.reason) == ("done", None)
    assert result.images is not None
    assert worst(case.images, result.images) < 1e-3


def test_noise_costs_precision_in_proportion() -> None:
    inputs = torch.rand(2, 100, generator=torch_generator(0, "inputs"))
    parts = gradients(inputs, torch.tensor([0, 1]), width=200)
    size = float(parts[0].square().mean().sqrt())
    errors = []
    for share in (1e-5, 1e-3):
        generator = torch_generator(0, "noise")
        noisy = [
            part + share * size * torch.randn(part.shape, generator=generator, dtype=part.dtype)
            for part in parts[:2]
        ]
        errors.append(worst(inputs.double(), recover((*noisy, *parts[2:]), 2).inputs))
    assert errors[0] < 1e-4
    assert 30 < errors[1] / errors[0] < 300


def test_a_batch_too_large_for_the_layer_is_a_failure() -> None:
    inputs = torch.rand(40, 100, generator=torch_generator(0, "inputs"))
    parts = gradients(inputs, torch.arange(40) % 10, width=64)
    with pytest.raises(AttackFailed, match="not of low rank"):
        recover(parts, 40, samples=1024)


def test_a_batch_that_is_hard_for_the_layer_is_a_failure_when_the_draws_are_spent() -> None:
    inputs = torch.randn(20, 100, generator=torch_generator(0, "inputs"))
    parts = gradients(inputs, torch.arange(20) % 10, width=64)
    with pytest.raises(AttackFailed, match=r"of 20 images were found in 1024 draws"):
        recover(parts, 20, samples=1024)


REFUSED: dict[str, tuple[Callable[..., nn.Module], str]] = {
    "leaky": (wide(nn.LeakyReLU()), "not followed by ReLU: its negative outputs"),
    "sigmoid": (wide(nn.Sigmoid()), "not followed by ReLU: its negative outputs"),
    "gelu": (wide(nn.GELU()), "not followed by ReLU: its negative outputs"),
    "no bias": (wide(bias=False), "has no bias"),
}


@pytest.mark.parametrize("net", REFUSED)
def test_other_networks_are_refused_with_the_reason(net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    build, said = REFUSED[net]
    monkeypatch.setitem(NETS, net, build)
    result = run(make_case(net, labels=(0, 1, 1)))
    assert result.status == "failed"
    assert said in (result.reason or "")


@pytest.mark.parametrize("name", ["analytic", "spear"])
def test_a_layer_that_sees_row_by_row_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(shape: tuple[int, int, int], classes: int) -> nn.Module:
        return nn.Sequential(
            nn.Linear(shape[2], 20), nn.ReLU(), nn.Flatten(), nn.Linear(shape[0] * shape[1] * 20, classes)
        )

    monkeypatch.setitem(NETS, "rows", rows)
    result = run(make_case("rows", labels=(0, 1)), name)
    assert result.status == "failed"
    assert "piece by piece, 8 of 64 values at a time" in (result.reason or "")


def test_relu_in_place_is_relu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETS, "in place", wide(nn.ReLU(inplace=True)))
    case = make_case("in place", labels=(0, 1, 1), shape=(3, 8, 8))
    result = run(case)
    assert result.images is not None
    assert worst(case.images, result.images) < 1e-4


def test_added_noise_and_another_optimiser_are_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETS, "wide", wide())
    case = make_case("wide", labels=(0, 1, 1), shape=(3, 8, 8))
    generator = torch_generator(0, "noise")
    noisy = {
        name: value + torch.randn(value.shape, generator=generator)
        for name, value in case.update.received.items()
    }
    result = run(replace(case, update=replace(case.update, received=noisy)))
    assert result.status == "failed"
    assert "not of low rank" in (result.reason or "")
    adam = make_case("wide", labels=(0,), training=TrainingDetails(optimizer="adam", learning_rate=1e-3))
    result = run(adam)
    assert result.status == "failed"
    assert "'adam'" in (result.reason or "")
