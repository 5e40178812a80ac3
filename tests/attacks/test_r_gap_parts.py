"""R-GAP's parts against dense matrices and closed forms, and each reason for which it refuses a model."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, max_pool2d, relu

from fl_audit.attacks import attacks
from fl_audit.attacks._r_gap_chain import known_activation
from fl_audit.attacks._r_gap_system import System, solve
from fl_audit.core.types import Reconstruction, TrainingDetails
from tests.attacks.cases import CPU, NETS, Case, Centre, make_case

SHAPE = (3, 8, 8)


def psnr(result: Reconstruction, case: Case) -> float:
    assert (result.status, result.reason) == ("done", None)
    assert result.images is not None
    return float(-10 * (result.images - case.images).square().mean().clamp(min=1e-12).log10())


def run(case: Case) -> Reconstruction:
    return attacks.create("r-gap").run(case.update, case.knowledge, seed=0, device=CPU)


def case_of(build: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch, **options: object) -> Case:
    monkeypatch.setitem(NETS, "own", lambda shape, classes: build())
    return make_case("own", labels=(3,), classes=10, shape=SHAPE, **options)  # type: ignore[arg-type]


def convolutions(
    activation: Callable[[], nn.Module], *, bias: bool = True, width: int = 12, classes: int = 10
) -> nn.Module:
    return nn.Sequential(
        Centre(),
        nn.Conv2d(3, width, 4, stride=2, padding=1, bias=bias),
        activation(),
        nn.Conv2d(width, 16, 3, padding="same", bias=bias),
        activation(),
        nn.Flatten(),
        nn.Linear(16 * 16, classes, bias=bias),
    )


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "leaky": lambda: nn.LeakyReLU(0.2),
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "softplus": nn.Softplus,
    "linear": nn.Identity,
}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_one_image_is_recovered(name: str, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(lambda: convolutions(ACTIVATIONS[name], bias=bias), monkeypatch, grant_labels=False)
    result = run(case)
    assert psnr(result, case) > 40
    assert result.labels is not None
    assert (result.labels.tolist(), result.labels_inferred) == ([3], True)
    assert any("every layer determine its input" in note for note in result.notes)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_neither_the_scale_nor_clipping_matters(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(
        lambda: convolutions(ACTIVATIONS["leaky"], bias=bias),
        monkeypatch,
        grant_training=False,
        training=TrainingDetails(learning_rate=1.0),
    )
    sent = case.update.sent
    clipped = {name: sent[name] + 0.3 * (value - sent[name]) for name, value in case.update.received.items()}
    assert psnr(run(replace(case, update=replace(case.update, received=clipped))), case) > 30


class Functional(nn.Module):
    """The same kind of net with functions instead of layers between the convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, 4, stride=2, padding=1)
        self.second = nn.Conv2d(12, 16, 3, padding=1)
        self.last = nn.Linear(256, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(images))
        return self.last(torch.tanh(self.second(hidden)).flatten(1))  # type: ignore[no-any-return]


def test_functions_between_layers_are_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(Functional, monkeypatch)
    assert psnr(run(case), case) > 40


def test_hidden_linear_layers_need_no_invertible_activation(monkeypatch: pytest.MonkeyPatch) -> None:
    def perceptron() -> nn.Module:
        return nn.Sequential(
            Centre(),
            nn.Flatten(),
            nn.Linear(192, 64),
            nn.ReLU(),
            nn.Linear(64, 32),
            nn.ReLU(),
            nn.Linear(32, 10),
        )

    case = case_of(perceptron, monkeypatch)
    assert psnr(run(case), case) > 60


def test_a_narrow_convolution_is_named_with_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(lambda: convolutions(ACTIVATIONS["leaky"], width=1), monkeypatch)
    result = run(case)
    # 1 x 4 x 4 outputs and 3 x 4 x 4 weights of the first layer: at most 64 equations for 192 pixels.
    (note,) = [note for note in result.notes if "rank deficiency" in note]
    assert "'1'" in note
    assert 100 < int(note.split("about ")[1].split(" of 192")[0]) < 156
    grey = float(-10 * (case.images - 0.5).square().mean().log10())
    assert psnr(result, case) > grey


class Residual(Functional):
    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(images))
        mixed = torch.tanh(self.second(hidden)) + hidden.repeat(1, 2, 1, 1)[:, :16]
        return self.last(mixed.flatten(1))  # type: ignore[no-any-return]


class Pooled(Functional):
    def forward(self, images: Tensor) -> Tensor:
        hidden = max_pool2d(relu(self.first(images)), 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
        return self.last(relu(self.second(hidden)).flatten(1))  # type: ignore[no-any-return]


class Twice(Functional):
    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Conv2d(12, 12, 3, padding=1)
        self.last = nn.Linear(192, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.tanh(self.second(torch.tanh(self.first(images))))
        return self.last(torch.tanh(self.second(hidden)).flatten(1))  # type: ignore[no-any-return]


def pooled() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(128, 10)
    )


def normalised() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Sigmoid(), nn.Flatten(), nn.Linear(512, 10)
    )


def blurred() -> nn.Module:
    return nn.Sequential(
        nn.AvgPool2d(3, 1, 1), nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(288, 10)
    )


def all_convolutions() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 10, 8), nn.Flatten())


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "residual connection": (Residual, "between layers 'second' and 'last' is no activation"),
    "pooling in the code": (Pooled, "between layers 'first' and 'second' is no activation"),
    "pooling layer": (pooled, "'2' (AvgPool2d)"),
    "batch norm": (normalised, "batch normalisation"),
    "a layer used twice": (Twice, "'second' runs more than once"),
    "blurred images": (blurred, "before the first layer '1' is no per-pixel normalisation: '0' (AvgPool2d)"),
    "no linear layer at the end": (all_convolutions, "does not end in a linear layer"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_it_cannot_invert_is_named(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    build, said = REFUSED[kind]
    result = run(case_of(build, monkeypatch))
    assert result.status == "failed"
    assert said in (result.reason or "")


@pytest.mark.parametrize(
    ("details", "said"),
    [
        (TrainingDetails(local_steps=3), "3"),
        (TrainingDetails(optimizer="adam"), "'adam'"),
    ],
    ids=["steps", "adam"],
)
def test_what_is_no_gradient_of_one_step_is_refused(
    details: TrainingDetails, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_of(lambda: convolutions(nn.Tanh), monkeypatch)
    knowledge = replace(case.knowledge, training=details, labels=None)
    result = run(replace(case, knowledge=knowledge))
    assert result.status == "failed"
    assert said in (result.reason or "")


@pytest.mark.parametrize("name", [*ACTIVATIONS, "relu"])
def test_activations_are_undone_and_differentiated(name: str) -> None:
    module = nn.ReLU() if name == "relu" else ACTIVATIONS[name]()
    activation = known_activation(module)
    assert activation is not None
    inputs = torch.linspace(-4, 4, 40, dtype=torch.float64)  # without 0, where there are kinks
    assert torch.allclose(activation.forward(inputs), module(inputs))
    step = 1e-6
    slopes = (module(inputs + step) - module(inputs - step)) / (2 * step)
    assert torch.allclose(activation.slope(inputs), slopes, atol=1e-6)
    expected = torch.where(inputs > 0, inputs, -1.0) if name == "relu" else inputs
    assert torch.allclose(activation.undo(module(inputs)), expected, atol=1e-6)
    assert known_activation(nn.GELU()) is None


def small_system(width: int) -> tuple[System, Tensor, Tensor]:
    """A strided, padded convolution's equations for a known input, and their dense matrix."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    shape, module = (2, 5, 5), nn.Conv2d(2, width, 3, stride=2, padding=1)
    truth, weight, upper = random(*shape), random(width, 2, 3, 3), random(width, 3, 3)
    trust = random(width, 3, 3).abs()
    kernels = weight.clone().requires_grad_()
    output = conv2d(truth[None], kernels, stride=2, padding=1)[0]
    (gradient,) = torch.autograd.grad(output, kernels, upper)
    system = System(module, shape, weight, output.detach(), trust, upper, gradient)

    def left(values: Tensor) -> Tensor:
        maps, kernel = values.view(1, *shape), weight.clone().requires_grad_()
        result = conv2d(maps, kernel, stride=2, padding=1)[0]
        (wanted,) = torch.autograd.grad(result, kernel, upper)
        return torch.cat([(result * trust).detach().flatten(), wanted.flatten()])

    matrix = torch.stack([left(unit) for unit in torch.eye(50, dtype=torch.float64)], 1)
    return system, truth.flatten(), matrix


@pytest.mark.parametrize("width", [1, 4])
def test_the_equations_are_those_of_the_dense_matrix(width: int) -> None:
    system, truth, matrix = small_system(width)
    assert torch.allclose(
        torch.cat(
            [system.weight_equations(truth.view(2, 5, 5)), system.gradient_equations(truth.view(2, 5, 5))]
        ),
        matrix @ truth,
    )
    rank = int(torch.linalg.matrix_rank(matrix))
    solution = solve(
        system,
        torch.zeros(50, dtype=torch.float64),
        iterations=2000,
        generator=torch.Generator().manual_seed(1),
    )
    assert (rank == 50) == (width == 4)
    if rank == 50:
        assert torch.allclose(solution.values, truth, atol=1e-6)
        assert solution.undetermined < 1e-6
    else:
        assert solution.undetermined == pytest.approx(50 - rank, rel=0.5)
        nearest = torch.linalg.pinv(matrix, rtol=1e-10) @ (matrix @ truth)
        assert torch.allclose(solution.values, nearest, atol=1e-5)
    assert solution.residual < 1e-6


def test_what_the_equations_leave_free_stays_as_it_began() -> None:
    system, truth, matrix = small_system(1)
    start = torch.full((50,), 0.7, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    solution = solve(system, start, iterations=2000, generator=generator)
    known = torch.linalg.pinv(matrix, rtol=1e-10) @ matrix
    assert torch.allclose(solution.values, start + known @ (truth - start), atol=1e-5)
