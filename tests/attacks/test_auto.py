"""`auto` chooses what theory says, says what it chose, and never returns less than its parts."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_audit.attacks import AttackInterrupted, Problem, Task, attacks
from fl_audit.attacks._probe import check_model
from fl_audit.attacks.auto import small_and_smooth, total_of
from fl_audit.attacks.clock import Clock
from fl_audit.attacks.inverting_gradients import InvertingGradients
from fl_audit.attacks.problem import prepare
from fl_audit.attacks.r_gap import RGap
from fl_audit.core.progress import Progress
from fl_audit.core.types import Reconstruction
from fl_audit.models import models
from tests.attacks.cases import CPU, Case, make_case


def run(case: Case, spec: str = "auto:iterations=20", **options: object) -> Reconstruction:
    return attacks.create(spec).run(case.update, case.knowledge, seed=0, device=CPU, **options)  # type: ignore[arg-type]


def said(result: Reconstruction) -> str:
    return next(note for note in result.notes if note.startswith("auto chose"))


def error(case: Case, result: Reconstruction) -> float:
    assert result.images is not None
    return float((result.images - case.images).abs().max())


def noisy(case: Case, size: float) -> Case:
    """The same update under noise of ``size`` times the mean size of what moved."""
    generator = torch.Generator().manual_seed(0)
    received = {
        name: value
        + size * (value - case.update.sent[name]).abs().mean() * torch.randn(value.shape, generator=generator)
        for name, value in case.update.received.items()
    }
    return replace(case, update=replace(case.update, received=received))


def test_a_first_linear_layer_is_solved_exactly() -> None:
    case = make_case("dense", labels=(1,), grant_labels=False)
    result = run(case)
    assert "auto chose analytic" in said(result)
    assert error(case, result) < 1e-4
    assert result.iterations == 0


def test_several_images_through_a_linear_layer_with_relu_are_solved_exactly() -> None:
    case = make_case("dense", labels=(1, 0, 1), grant_labels=False)
    result = run(case)
    assert result.images is not None
    assert any(name in said(result) for name in ("spear", "analytic"))
    partner = torch.cdist(case.images.flatten(1), result.images.flatten(1))
    assert float(partner.min(1).values.max()) < 1e-3


def test_one_image_on_a_chain_of_layers_is_solved_layer_by_layer() -> None:
    case = make_case(labels=(1,), grant_labels=False)
    result = run(case)
    assert "auto chose r-gap" in said(result)
    assert error(case, result) < 1e-3
    assert result.labels is not None
    assert result.labels.tolist() == [1]


def test_several_images_on_a_small_smooth_network_are_solved_by_dlg() -> None:
    case = make_case(labels=(1, 2), classes=3, grant_labels=False)
    result = run(case)
    assert "auto chose dlg" in said(result)
    assert error(case, result) < 1e-2


def test_a_network_with_kinks_is_attacked_by_cosine() -> None:
    case = make_case("dense", labels=(1, 0, 1))
    broken = noisy(case, 1.0)  # no exact solution any more
    result = run(broken)
    assert "auto chose inverting-gradients: the network is large or has kinks" in said(result)
    assert result.iterations == 20 + 40, "a longer descent follows on a small network"


def test_where_dlg_fails_the_one_that_fits_better_is_returned() -> None:
    case = noisy(make_case(labels=(1,)), 3.0)
    result = run(case, "auto:iterations=200")
    assert "auto chose inverting-gradients: dlg did not reproduce the update" in said(result)
    problem = prepare(case.update, case.knowledge, seed=0, who="t", device=CPU, progress=Progress())
    parts = InvertingGradients()._parts(problem)
    assert total_of(problem, result, parts) == pytest.approx(result.objective, rel=1e-4)
    assert result.objective < total_of(problem, run(case, "dlg"), parts)


def test_what_noise_has_drowned_is_not_inverted_layer_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    plain = RGap._reconstruct

    def counted(attack: RGap, problem: Problem) -> Reconstruction:
        begun.append(problem.num_images)
        return plain(attack, problem)

    monkeypatch.setattr(RGap, "_reconstruct", counted)
    case = make_case(labels=(1,))
    assert "auto chose r-gap" in said(run(case))
    assert begun == [1]
    size = 10 * torch.cat([value.flatten() for value in case.update.delta().values()]).abs().mean()
    noise = torch.Generator().manual_seed(0)
    drowned = {
        name: value + size * torch.randn(value.shape, generator=noise)
        for name, value in case.update.received.items()
    }
    assert "r-gap" not in said(run(replace(case, update=replace(case.update, received=drowned))))
    assert begun == [1]


def test_several_clients_go_their_own_ways_in_one_call() -> None:
    cases = [make_case(labels=(0,), classes=3, data_seed=seed) for seed in range(3)]
    cases[1] = noisy(cases[1], 10.0)
    tasks = [Task(case.update, case.knowledge, 0) for case in cases]
    results = attacks.create("auto:iterations=20").run_together(tasks, device=CPU)
    assert [result.status for result in results] == ["done"] * 3
    assert "r-gap" not in said(results[1])
    for place in (0, 2):
        assert "auto chose r-gap" in said(results[place])
        assert error(cases[place], results[place]) < 1e-3


class Interrupting(Progress):
    def step(self, done: int, total: int, value: float | None = None) -> None:
        raise KeyboardInterrupt


def test_ctrl_c_in_the_first_phase_keeps_what_there_is() -> None:
    case = noisy(make_case(labels=(1,)), 3.0)
    with pytest.raises(AttackInterrupted) as caught:
        run(case, progress=Interrupting())
    (result,) = caught.value.results
    assert result.status == "done"
    assert "auto chose dlg" in said(result)


def test_the_budget_covers_both_phases() -> None:
    case = noisy(make_case(labels=(1, 0, 1)), 3.0)
    result = run(case, "auto:iterations=1000000", budget=0.6)
    assert result.status == "done"
    assert result.seconds < 20


def test_a_part_of_a_clock_ends_with_it() -> None:
    whole = Clock(100.0)
    part = whole.part(0.5)
    assert 49 < part.left() <= 50
    assert Clock().part(0.5).left() == float("inf")
    part.interrupt()
    assert whole.interrupted
    assert whole.part(1.0).interrupted
    assert Clock(1e-12).part(1.0).over()


@pytest.mark.parametrize(("name", "expected"), [("lenet", True), ("convnet", False), ("resnet20-4", False)])
def test_which_networks_are_small_and_smooth(name: str, expected: bool) -> None:
    model = models.create(name).build((3, 32, 32), 10)
    looks = check_model(model, torch.rand(1, 3, 32, 32), 10)
    case = make_case()
    problem = prepare(case.update, case.knowledge, seed=0, who="t", device=CPU, progress=Progress())
    assert small_and_smooth(replace(problem, model=model, kinked=looks.kinked)) == expected


class Bent(nn.Module):
    """A convolution and a function call, without a layer that shows it."""

    def __init__(self, bend: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.bend = bend
        self.layer = nn.Conv2d(1, 2, 3)

    def forward(self, images: Tensor) -> Tensor:
        made: Tensor = self.bend(self.layer(images)).mean((2, 3))
        return made


BENDS: dict[str, tuple[Callable[[Tensor], Tensor], bool, bool]] = {
    "sigmoid": (torch.sigmoid, False, False),
    "gelu": (functional.gelu, False, False),
    "average pooling": (lambda values: functional.avg_pool2d(values, 2), False, False),
    "relu": (functional.relu, True, False),
    "a parametric relu": (nn.PReLU(), True, False),
    "clamping": (lambda values: values.clamp(min=0), True, False),
    "max pooling": (lambda values: functional.max_pool2d(values, 2), True, True),
    "max pooling with places": (
        lambda values: functional.max_pool2d(values, 2, return_indices=True)[0],
        True,
        True,
    ),
    "adaptive max pooling": (lambda values: functional.adaptive_max_pool2d(values, 2), True, True),
    "a maximum over pixels": (lambda values: values.amax((2, 3), keepdim=True), True, True),
}


@pytest.mark.parametrize("name", BENDS)
def test_functions_are_seen_like_layers(name: str) -> None:
    bend, kinked, pooled = BENDS[name]
    looks = check_model(Bent(bend), torch.rand(2, 1, 8, 8), 2)
    assert (looks.kinked, looks.max_pooled) == (kinked, pooled)
