"""Attacking several clients in one go, with a time budget, and Ctrl-C in the middle."""

import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from fl_audit.attacks import AttackInterrupted, Task, attacks
from fl_audit.attacks.base import Attack
from fl_audit.core.images import check_images
from fl_audit.core.progress import Progress
from fl_audit.core.types import Reconstruction
from tests.attacks.cases import CPU, Case, make_case


def three_clients() -> list[Case]:
    """Three clients of one round: one model, other images."""
    return [
        make_case(labels=labels, classes=3, data_seed=seed) for seed, labels in enumerate(((0,), (2,), (1,)))
    ]


def tasks_of(cases: Sequence[Case]) -> list[Task]:
    return [Task(case.update, case.knowledge, seed) for seed, case in enumerate(cases)]


def error(case: Case, result: Reconstruction) -> float:
    assert result.images is not None
    return float((result.images - case.images).square().mean())


@pytest.mark.parametrize("spec", ["inverting-gradients:iterations=60,tv=0", "dlg:iterations=40", "analytic"])
def test_clients_attacked_together_get_what_each_gets_alone(spec: str) -> None:
    cases = three_clients()
    attack = attacks.create(spec)
    together = attack.run_together(tasks_of(cases), device=CPU)
    for seed, (case, result) in enumerate(zip(cases, together, strict=True)):
        alone = attack.run(case.update, case.knowledge, seed=seed, device=CPU)
        assert (result.status, result.reason) == (alone.status, alone.reason)
        if result.status == "done":
            # Rounding differs on one axis, so that the paths part; the clients are not mixed up.
            assert result.labels is not None
            assert result.labels.tolist() == case.labels.tolist()
            assert error(case, result) < 0.5 * min(
                error(other, result) for other in cases if other is not case
            )
            assert result.iterations == pytest.approx(alone.iterations, rel=0.5)


def test_one_bad_client_leaves_the_others_alone() -> None:
    cases = three_clients()
    broken = replace(cases[1].update, received=cases[1].update.sent)
    tasks = tasks_of([cases[0], replace(cases[1], update=broken), cases[2]])
    results = attacks.create("inverting-gradients:iterations=3").run_together(tasks, device=CPU)
    assert [result.status for result in results] == ["done", "failed", "done"]
    assert "zero" in (results[1].reason or "")


def test_clients_of_other_models_are_attacked_in_one_call_too() -> None:
    cases = [make_case(labels=(0,), classes=3), make_case(labels=(0, 1), classes=2, seed=4)]
    results = attacks.create("inverting-gradients:iterations=3").run_together(tasks_of(cases), device=CPU)
    assert [len(result.images) for result in results if result.images is not None] == [1, 2]


@pytest.mark.parametrize(
    "spec", ["inverting-gradients:iterations=1000000", "dlg:iterations=1000000,success=0"]
)
def test_the_time_budget_ends_the_attack_and_its_schedule(spec: str) -> None:
    case = make_case(labels=(1, 0, 1))
    result = attacks.create(spec).run(case.update, case.knowledge, seed=0, device=CPU, budget=0.5)
    assert result.status == "done"
    assert 0 < result.iterations < 1_000_000
    assert result.seconds < 20
    assert any("time budget" in note for note in result.notes)


@pytest.mark.parametrize("spec", ["inverting-gradients:iterations=1000", "dlg:iterations=1000,success=0"])
@pytest.mark.parametrize("budget", [40.0, 100.0])
def test_the_time_budget_is_not_overrun(spec: str, budget: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that only a pass through the model moves on: by a second."""
    case = make_case(labels=(1, 0, 1))
    now = [0.0]
    forward = torch.nn.Linear.forward

    def slow(self: torch.nn.Linear, values: torch.Tensor) -> torch.Tensor:
        now[0] += 1.0
        return forward(self, values)

    monkeypatch.setattr(torch.nn.Linear, "forward", slow)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    result = attacks.create(spec).run(case.update, case.knowledge, seed=0, device=CPU, budget=budget)
    assert result.status == "done"
    assert 0.5 * budget < result.seconds <= budget


class Interrupting(Progress):
    """Ctrl-C at the second look at the objective."""

    def __init__(self) -> None:
        self.looks = 0

    def step(self, done: int, total: int, value: float | None = None) -> None:
        self.looks += 1
        if self.looks == 2:
            raise KeyboardInterrupt


def test_ctrl_c_keeps_the_best_so_far() -> None:
    cases = three_clients()
    attack: Attack = attacks.create("inverting-gradients:iterations=1000000")
    with pytest.raises(AttackInterrupted) as caught:
        attack.run_together(tasks_of(cases), device=CPU, progress=Interrupting())
    assert len(caught.value.results) == 3
    for result in caught.value.results:
        assert result.status == "done"
        assert result.images is not None
        check_images(result.images)
        assert result.iterations == 40
        assert any("interrupted" in note for note in result.notes)


def test_ctrl_c_before_there_is_anything_just_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.nn.Linear, "forward", interrupt)
    with pytest.raises(KeyboardInterrupt) as caught:
        attacks.create("dlg").run(case.update, case.knowledge, seed=0, device=CPU)
    assert not isinstance(caught.value, AttackInterrupted)
