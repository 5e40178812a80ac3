"""What follows the first descent of `auto`: longer ones while they pay, and nothing gets worse by them."""

import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from fl_audit.attacks import AttackInterrupted, attacks
from fl_audit.attacks._further import go_on, polish
from fl_audit.attacks.clock import Clock
from fl_audit.attacks.inverting_gradients import InvertingGradients
from fl_audit.attacks.labels import Labels
from fl_audit.attacks.problem import Problem, prepare
from fl_audit.attacks.simulation import misfit_of
from fl_audit.attacks.starts import Found
from fl_audit.core.progress import Progress
from fl_audit.core.types import Reconstruction
from tests.attacks.cases import CPU, Case, make_case

POOLING = {"net": "pooling", "labels": (1,), "classes": 3, "shape": (3, 8, 8)}


def case_of(**changes: object) -> Case:
    return make_case(**POOLING | changes)  # type: ignore[arg-type]


def run(spec: str, case: Case, budget: float | None = None) -> Reconstruction:
    result = attacks.create(spec).run(case.update, case.knowledge, seed=0, device=CPU, budget=budget)
    assert (result.status, result.reason) == ("done", None)
    return result


def problem_of(case: Case) -> Problem:
    return prepare(case.update, case.knowledge, seed=0, who="t", device=CPU, progress=Progress())


def test_without_a_budget_one_descent_follows_where_it_is_cheap() -> None:
    alone, followed = (run(f"auto:iterations=10,further={n}", case_of()) for n in (0, 6))
    assert (alone.iterations, followed.iterations) == (10, 10 + 20 + 10), "one, and the polish"
    assert followed.objective < alone.objective
    many = case_of(labels=(0, 1, 2) * 4)
    assert run("auto:iterations=2", many).iterations == 2, "twelve images are not cheap"


def test_with_a_budget_that_does_not_bind_all_follow_and_the_result_is_the_same_again() -> None:
    first, second = (run("auto:iterations=5,further=3", case_of(), budget=1e6) for _ in range(2))
    assert first.iterations == 5 + 10 + 20 + 40 + 5
    assert first.images is not None
    assert second.images is not None
    assert torch.equal(first.images, second.images)
    assert first.facts() == second.facts()


def test_the_budget_is_spent_and_not_overrun(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that only a pass through the model moves on: by a second."""
    now = [0.0]
    forward = nn.Conv2d.forward

    def slow(self: nn.Conv2d, values: torch.Tensor) -> torch.Tensor:
        now[0] += 1.0
        return forward(self, values)

    monkeypatch.setattr(nn.Conv2d, "forward", slow)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    result = run("auto:iterations=10", case_of(), budget=60.0)
    assert 40 < result.seconds <= 60
    assert result.iterations > 30
    assert any("time budget" in note for note in result.notes)


def test_a_descent_that_does_not_pay_is_followed_by_one_from_elsewhere_and_then_by_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem = problem_of(case_of())
    attack = InvertingGradients(iterations=5)
    made = attack._reconstruct(problem)
    perfect = replace(made, objective=0.0)  # nothing can pay
    begun: list[float] = []
    plain = InvertingGradients._reconstruct_all

    def seen(self: InvertingGradients, problems: list[Problem]) -> list[Reconstruction]:
        begun.append(self.step_size)
        return plain(self, problems)

    monkeypatch.setattr(InvertingGradients, "_reconstruct_all", seen)
    (result,) = go_on(attack, [problem], [perfect], descents=6, seconds=0.0)
    assert begun == [attack.step_size / 2, attack.step_size]
    assert result.images is perfect.images
    assert result.objective == 0.0
    assert result.iterations == made.iterations + 10 + 20


@pytest.mark.parametrize(
    "change", [{"objective": 0.7}, {"status": "failed", "images": None}], ids=["only noise is left", "failed"]
)
def test_what_holds_no_promise_is_left_alone(change: dict[str, object]) -> None:
    problem = problem_of(case_of())
    result = replace(InvertingGradients(iterations=2)._reconstruct(problem), **change)  # type: ignore[arg-type]
    assert go_on(InvertingGradients(iterations=2), [problem], [result], descents=3, seconds=0.0) == [result]


def test_the_polish_is_kept_only_where_it_explains_the_update_better() -> None:
    case = case_of()
    problem = problem_of(case)
    attack = InvertingGradients(iterations=20)
    rough = attack._reconstruct(problem)
    (fine,) = polish(attack, [problem], [rough], seconds=0.0)
    assert fine.images is not None
    assert rough.images is not None
    assert misfit_of(problem, fine.images, case.labels) < misfit_of(problem, rough.images, case.labels)
    truth = replace(rough, images=case.images)
    (kept,) = polish(attack, [problem], [truth], seconds=0.0)
    assert kept.images is case.images
    assert polish(attack, [other := problem_of(make_case())], [rough], seconds=0.0) == [rough], (
        "it does not pool"
    )
    assert not other.max_pooled


def test_what_time_is_too_short_for_is_not_begun() -> None:
    problem = replace(problem_of(case_of()), clock=Clock(1e3))
    attack = InvertingGradients(iterations=2)
    made = attack._reconstruct(problem)
    assert go_on(attack, [problem], [made], descents=3, seconds=1e6) == [made]
    assert polish(attack, [problem], [made], seconds=1e6) == [made]
    (longer,) = go_on(attack, [problem], [made], descents=1, seconds=1.0)
    assert longer.iterations == 2 + 4


class _CtrlC(Progress):
    """Ctrl-C at the first look at the second descent."""

    def __init__(self, first: int) -> None:
        self.first = first

    def step(self, done: int, total: int, value: float | None = None) -> None:
        if total > self.first:
            raise KeyboardInterrupt


def test_ctrl_c_in_a_later_descent_keeps_the_best_so_far() -> None:
    case = case_of()
    with pytest.raises(AttackInterrupted) as caught:
        attacks.create("auto:iterations=20").run(
            case.update, case.knowledge, seed=0, device=CPU, progress=_CtrlC(20)
        )
    (result,) = caught.value.results
    assert result.status == "done"
    assert result.objective <= run("auto:iterations=20,further=0", case).objective


def test_a_search_begins_where_another_ended() -> None:
    case = case_of()
    labels = Labels(case.labels, inferred=False)
    problem = problem_of(case)
    assert torch.equal(Found()(replace(problem, found=case.images), labels), case.images)
    with pytest.raises(ValueError, match="nothing was found"):
        Found()(problem, labels)
