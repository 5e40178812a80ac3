"""Simulations on one axis equal each one alone, whatever the width; memory that runs out is survived."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fl_audit.attacks import rows
from fl_audit.attacks.objectives import Cosine, Objective, SquaredError, cosine_distance
from fl_audit.attacks.problem import Problem, prepare
from fl_audit.attacks.rows import Rows, merged, sharing, small_work
from fl_audit.attacks.simulation import simulate
from fl_audit.core.progress import Progress
from fl_audit.core.types import TrainingDetails
from fl_audit.models import models
from tests.attacks.cases import CPU, Case, make_case

TRAININGS = {
    "one step": TrainingDetails(batch_size=4),
    "three steps": TrainingDetails(
        learning_rate=0.1, momentum=0.9, weight_decay=0.01, local_steps=3, batch_size=2
    ),
}


def problem_of(case: Case) -> Problem:
    return prepare(case.update, case.knowledge, seed=0, who="t", device=CPU, progress=Progress())


def clients(kind: str = "one step") -> tuple[list[Problem], list[Tensor]]:
    """Three clients of one model with different images and labels."""
    base = make_case(labels=(0, 2, 2, 1), classes=3, training=TRAININGS[kind])
    problems = []
    for client in range(3):
        case = replace(base, update=replace(base.update, received=_changed(base, client)))
        problems.append(problem_of(case))
    return problems, [torch.tensor(marks) for marks in ((0, 2, 2, 1), (1, 1, 0, 0), (2, 0, 1, 2))]


def _changed(case: Case, client: int) -> dict[str, Tensor]:
    noise = torch.Generator().manual_seed(client)
    return {
        name: value + 1e-3 * torch.randn(value.shape, generator=noise)
        for name, value in case.update.received.items()
    }


def slow(problem: Problem, labels: Tensor, images: Tensor, objective: Objective) -> tuple[float, Tensor]:
    """One row by itself, by autograd's tape."""
    images = images.clone().requires_grad_()
    simulated = [value[None] for value in simulate(problem, images, labels).values()]
    value = objective(simulated, list(problem.observed.values()))
    (slope,) = torch.autograd.grad(value.sum(), images)
    return float(value.detach()), slope


@pytest.mark.parametrize("width", [1, 2, 6])
@pytest.mark.parametrize("objective", [Cosine(), SquaredError()], ids=["cosine", "squared error"])
@pytest.mark.parametrize("kind", TRAININGS)
def test_rows_equal_each_row_alone(kind: str, objective: Objective, width: int) -> None:
    problems, labels = clients(kind)
    images = torch.rand(6, 4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    together = Rows(sharing(problems), labels, 2, objective)
    assert together.width == 6
    together.width = width
    result = together(images, range(6))
    for row in range(6):
        value, slope = slow(problems[row // 2], labels[row // 2], images[row], objective)
        assert float(result.totals[row]) == pytest.approx(value, rel=1e-4)
        assert torch.allclose(result.gradients[row], slope, rtol=1e-3, atol=1e-6)


def test_rows_that_are_not_active_cost_nothing_and_get_nothing() -> None:
    problems, labels = clients()
    seen: list[int] = []

    def objective(simulated: Sequence[Tensor], observed: Sequence[Tensor]) -> Tensor:
        seen.append(len(simulated[0]))
        return cosine_distance(simulated, observed)

    evaluate = Rows(problems, labels, 1, objective)
    seen.clear()
    result = evaluate(torch.rand(3, 4, 1, 8, 8), [1])
    assert seen == [1]
    assert torch.isfinite(result.totals).tolist() == [False, True, False]
    assert result.gradients[[0, 2]].abs().sum() == 0
    assert result.gradients[1].abs().sum() > 0


def test_problems_are_merged_by_model_training_and_shape() -> None:
    same, _ = clients()
    other_weights = problem_of(make_case(labels=(0, 2, 2, 1), classes=3, seed=1))
    other_steps, _ = clients("three steps")
    fewer = problem_of(make_case(labels=(0, 2), classes=3))
    assert merged([same[0], other_weights, same[1], other_steps[0], fewer, same[2]]) == [
        [0, 2, 5],
        [1],
        [3],
        [4],
    ]
    shared = sharing(same)
    assert all(problem.model is same[0].model for problem in shared)
    assert all(a.observed is b.observed for a, b in zip(shared, same, strict=True))


class Branching(nn.Module):
    """Control flow on values, which vmap refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 2)

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        logits: Tensor = self.linear(flat.sigmoid() if float(flat.mean()) > -1e9 else flat)
        return logits


def test_a_model_that_vmap_refuses_is_simulated_row_by_row() -> None:
    case = make_case()
    model = Branching()
    sent = {name: value.clone() for name, value in model.state_dict().items()}
    received = {name: value + 0.01 for name, value in sent.items()}
    update = replace(case.update, sent=sent, received=received)
    problem = problem_of(replace(case, update=update, knowledge=replace(case.knowledge, model=model)))
    evaluate = Rows([problem], [case.labels], 2, Cosine())
    assert evaluate.width == 1
    assert torch.isfinite(evaluate(torch.rand(2, 1, 1, 8, 8), [0, 1]).totals).all()


def test_the_width_follows_the_memory_and_large_networks_go_row_by_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problems, labels = clients()
    monkeypatch.setattr(rows, "CPU_MEMORY", 1)
    assert Rows(problems, labels, 4, Cosine()).width == 1
    assert small_work(models.create("lenet").build((3, 32, 32), 10), (1, 3, 32, 32))
    assert not small_work(models.create("convnet").build((3, 32, 32), 10), (1, 3, 32, 32))


def test_memory_that_runs_out_halves_the_width_and_is_said() -> None:
    problems, labels = clients()
    tried: list[int] = []

    def objective(simulated: Sequence[Tensor], observed: Sequence[Tensor]) -> Tensor:
        tried.append(len(simulated[0]))
        if len(simulated[0]) > 2:
            raise torch.OutOfMemoryError("too much")
        return cosine_distance(simulated, observed)

    evaluate = Rows(problems, labels, 2, objective)
    tried.clear()
    result = evaluate(torch.rand(6, 4, 1, 8, 8), range(6))
    assert tried == [6, 3, 1, 1, 1, 1, 1, 1]
    assert torch.isfinite(result.totals).all()
    assert evaluate.width == 1
    assert all("memory ran out" in " ".join(problem.notes) for problem in problems)

    def never(simulated: Sequence[Tensor], observed: Sequence[Tensor]) -> Tensor:
        raise torch.OutOfMemoryError("too much")

    evaluate = Rows(problems, labels, 1, Cosine())
    evaluate._objective = never
    with pytest.raises(torch.OutOfMemoryError):
        evaluate(torch.rand(3, 4, 1, 8, 8), range(3))
