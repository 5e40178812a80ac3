"""Objectives, priors, starts, schedules, optimisers and the loop, against slow and obvious oracles."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fl_audit.attacks import AttackFailed
from fl_audit.attacks.labels import Labels
from fl_audit.attacks.loop import optimise
from fl_audit.attacks.objectives import Cosine, cosine_distance, fitted_squared_error, squared_error
from fl_audit.attacks.optimisers import LBFGS, SignedAdam
from fl_audit.attacks.parts import Parts
from fl_audit.attacks.priors import total_variation
from fl_audit.attacks.problem import Problem, prepare
from fl_audit.attacks.schedules import Constant, Never, Plateau, StepDecay
from fl_audit.attacks.starts import NormalNoise, Start, UniformNoise
from fl_audit.core.progress import Progress
from tests.attacks.cases import CPU, Case, make_case

SHAPES = ((3, 2), (4,), ())


def tensors(seed: int, restarts: int | None = None) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lead = () if restarts is None else (restarts,)
    return [torch.randn((*lead, *shape), generator=generator, dtype=torch.float64) for shape in SHAPES]


def flat(parts: Sequence[Tensor]) -> list[float]:
    return [value for part in parts for value in part.reshape(-1).tolist()]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3))
def test_objectives_equal_loops_over_numbers(seed: int, restarts: int) -> None:
    simulated, observed = tensors(seed, restarts), tensors(seed + 1)
    o = flat(observed)
    for row in range(restarts):
        s = flat([part[row] for part in simulated])
        dot = sum(a * b for a, b in zip(s, o, strict=True))
        cos = dot / math.hypot(*s) / math.hypot(*o)
        error = sum((a - b) ** 2 for a, b in zip(s, o, strict=True)) / math.hypot(*o) ** 2
        assert float(cosine_distance(simulated, observed)[row]) == pytest.approx(1 - cos, abs=1e-12)
        assert float(squared_error(simulated, observed)[row]) == pytest.approx(error, rel=1e-10)
        fitted = float(fitted_squared_error(simulated, observed)[row])
        assert fitted == pytest.approx(1 - max(cos, 0) ** 2, abs=1e-10)
        assert fitted <= error + 1e-12


@pytest.mark.parametrize("objective", [cosine_distance, squared_error, fitted_squared_error])
def test_objectives_have_the_right_slope(objective: object) -> None:
    assert callable(objective)
    observed = tensors(1)
    simulated = [value.requires_grad_() for value in tensors(2, 2)]
    if objective is fitted_squared_error:
        simulated = [
            (s.detach() * 0.5 + o).requires_grad_() for s, o in zip(simulated, observed, strict=True)
        ]
    assert torch.autograd.gradcheck(lambda *parts: objective(parts, observed), simulated)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 2), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
def test_total_variation_equals_a_loop_over_pixels(seed: int, n: int, c: int, h: int, w: int) -> None:
    images = torch.rand(2, n, c, h, w, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for row in range(2):
        down, right = [], []
        for i in range(n):
            for k in range(c):
                pixel = images[row, i, k].tolist()
                down += [abs(pixel[y + 1][x] - pixel[y][x]) for y in range(h - 1) for x in range(w)]
                right += [abs(pixel[y][x + 1] - pixel[y][x]) for y in range(h) for x in range(w - 1)]
        expected = sum(down) / max(len(down), 1) + sum(right) / max(len(right), 1)
        assert float(total_variation(images)[row]) == pytest.approx(expected, abs=1e-12)


def problem_of(case: Case, progress: Progress | None = None) -> Problem:
    return prepare(case.update, case.knowledge, seed=0, who="t", device=CPU, progress=progress or Progress())


def granted(case: Case) -> Labels:
    return Labels(case.labels, inferred=False)


@pytest.mark.parametrize("start", [NormalNoise(), UniformNoise()], ids=repr)
def test_starts_draw_from_their_generator_only_and_stay_in_the_box(start: Start) -> None:
    case = make_case(labels=(0, 1))
    problem = problem_of(case)
    first = start(problem, granted(case))
    assert torch.equal(first, start(problem_of(case), granted(case)))
    assert not torch.equal(first, start(problem, granted(case)))
    assert first.shape == problem.shape == (2, 1, 8, 8)
    assert float(first.min()) >= 0
    assert float(first.max()) <= 1


def test_the_schedule_has_the_milestones_of_the_paper() -> None:
    factors = [StepDecay()(iteration / 8) for iteration in range(8)]
    assert factors == pytest.approx([1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.001])
    assert Constant()(0.6) == 1


def test_plateau_stops_when_nothing_improves() -> None:
    rule = Plateau(checks=2, share=0.1, enough=1e-6)
    assert not rule([1.0, 0.5])
    assert not rule([1.0, 0.8, 0.6])
    assert rule([1.0, 0.99, 0.98])
    assert rule([1e-7])
    assert not Never()([1.0] * 100)
    stuck = Plateau(checks=2, share=0.1, above=0.5)
    assert stuck([1.0, 0.99, 0.98])
    assert not stuck([0.4, 0.4, 0.4])


@pytest.mark.parametrize("momentum", [0.9, 0.5])
def test_signed_adam_is_adam_on_signs(momentum: float) -> None:
    own = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    other = own.detach().clone().requires_grad_()
    signed = SignedAdam(0.1, momentum).build(own)
    adam = torch.optim.Adam([other], lr=0.1, betas=(momentum, 0.999))
    for factor in (1.0, -5.0, 0.01):
        own.grad = torch.tensor([0.3, -40.0, 0.0]) * factor
        other.grad = torch.tensor([1.0, -1.0, 0.0]) * math.copysign(1, factor)
        signed.step()
        adam.step()
        assert torch.equal(own, other)


class Recorder(Progress):
    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []

    def step(self, done: int, total: int, value: float | None = None) -> None:
        assert value is not None
        self.steps.append((done, total))


def parts(**changes: object) -> Parts:
    base = Parts(objective=Cosine(), optimiser=SignedAdam(0.05), iterations=6, check_every=2)
    return replace(base, **changes)  # type: ignore[arg-type]


def test_the_loop_reports_progress_and_returns_the_best_iterate() -> None:
    case, progress = make_case(), Recorder()
    problem = problem_of(case, progress)
    seen: list[float] = []

    def objective(simulated: Sequence[Tensor], observed: Sequence[Tensor]) -> Tensor:
        values = cosine_distance(simulated, observed)
        seen.extend(values.tolist())
        return values

    outcome = optimise(problem, granted(case), parts(objective=objective, optimiser=SignedAdam(0.5)))
    assert progress.steps == [(2, 6), (4, 6), (6, 6)]
    assert outcome.total == pytest.approx(min(seen))
    assert outcome.iterations == 6
    assert float(outcome.images.min()) >= 0
    assert float(outcome.images.max()) <= 1


@pytest.mark.parametrize(("bad_from", "expected"), [(99, 0.3), (4, 0.1)], ids=["finite", "NaN at the end"])
def test_what_is_found_before_the_run_settles_is_a_fallback(bad_from: int, expected: float) -> None:
    case = make_case()
    values = [0.5, 0.1, 0.4, 0.2, 0.7, 0.3, 0.6]
    seen: list[Tensor] = []

    def objective(simulated: Sequence[Tensor], observed: Sequence[Tensor]) -> Tensor:
        distance = cosine_distance(simulated, observed)
        value = values[len(seen)] if len(seen) < bad_from else math.nan
        seen.append(distance)
        return distance * 0 + value

    outcome = optimise(problem_of(case), granted(case), parts(objective=objective, settled=0.6))
    assert outcome.total == pytest.approx(expected)
    assert len(seen) == 7


def test_more_restarts_are_never_worse_and_run_one_by_one_where_the_optimiser_asks() -> None:
    case = make_case()
    totals = []
    for restarts in (1, 3):
        problem = problem_of(case)
        totals.append(optimise(problem, granted(case), parts(restarts=restarts)).total)
    assert totals[1] <= totals[0] + 1e-6
    progress = Recorder()
    problem = problem_of(case, progress)
    outcome = optimise(problem, granted(case), parts(restarts=2, optimiser=LBFGS(evaluations=2)))
    assert progress.steps == [(2, 12), (4, 12), (6, 12), (8, 12), (10, 12), (12, 12)]
    assert outcome.iterations == 12


@pytest.mark.parametrize(("agreement", "turns"), [(0.0, 3), (1e6, 2)])
def test_restarts_that_end_at_one_floor_are_the_last(agreement: float, turns: int) -> None:
    case, progress = make_case(), Recorder()
    optimise(
        problem_of(case, progress),
        granted(case),
        parts(restarts=3, optimiser=LBFGS(evaluations=2), agreement=agreement),
    )
    assert progress.steps[-1] == (6 * turns, 18)


def test_a_success_ends_the_other_restarts_and_goes_on_itself() -> None:
    case = make_case()
    outcome = optimise(problem_of(case), granted(case), parts(restarts=3, success=10.0, iterations=8))
    assert outcome.iterations == 2 + 2 + 8  # the others end at the first check


def test_an_objective_that_is_nan_from_every_start_fails_and_one_good_start_is_enough() -> None:
    case = make_case()
    calls = 0

    def sometimes(simulated: Sequence[Tensor], observed: Sequence[Tensor]) -> Tensor:
        nonlocal calls
        calls += 1
        return cosine_distance(simulated, observed) * (math.nan if calls <= 2 else 1)

    def never(simulated: Sequence[Tensor], observed: Sequence[Tensor]) -> Tensor:
        return cosine_distance(simulated, observed) * math.nan

    problem = problem_of(case)
    with pytest.raises(AttackFailed, match=r"NaN or infinite from each of 2 starts"):
        optimise(problem, granted(case), parts(objective=never, restarts=2))
    one_by_one = parts(objective=sometimes, restarts=2, optimiser=LBFGS(evaluations=2))
    assert math.isfinite(optimise(problem, granted(case), one_by_one).total)


@pytest.mark.parametrize("objective", [cosine_distance, squared_error, fitted_squared_error])
def test_rows_of_several_clients_each_have_their_own_update(objective: object) -> None:
    assert callable(objective)
    simulated, observed = tensors(1, 3), tensors(2, 3)
    values = objective(simulated, observed)
    for row in range(3):
        alone = objective([part[row : row + 1] for part in simulated], [part[row] for part in observed])
        assert float(values[row]) == pytest.approx(float(alone), rel=1e-12)
