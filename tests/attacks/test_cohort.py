"""Secure aggregation: the simulated mean of several clients against the mean of clients really trained."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from fl_audit.attacks import Problem, attacks
from fl_audit.attacks.problem import MAX_IMAGES, prepare
from fl_audit.attacks.rows import merged
from fl_audit.attacks.simulation import functional_gradient, simulate
from fl_audit.core.errors import ConfigError
from fl_audit.core.knowledge import Share
from fl_audit.core.progress import Progress
from fl_audit.core.types import TrainingDetails
from tests.attacks.cases import CPU, Case, make_case

STEP = TrainingDetails(learning_rate=0.1, weight_decay=0.01)
STEPS = TrainingDetails(learning_rate=0.1, momentum=0.9, local_steps=2, batch_size=2)
LABELS = ((0, 2), (1, 2, 0), (2,))


def clients(
    net: str,
    trainings: Sequence[TrainingDetails],
    *,
    labels: Sequence[tuple[int, ...]] = LABELS,
    passes: int = 1,
) -> list[Case]:
    """Clients that start from one model, each with its own images."""
    return [
        make_case(
            net,
            labels=marks,
            classes=3,
            training=replace(training, batch_size=len(marks)),
            order=tuple(range(len(marks))) * passes,
            data_seed=number,
        )
        for number, (training, marks) in enumerate(zip(trainings, labels, strict=True))
    ]


def aggregated(cases: Sequence[Case], *, level: str = "C", grant_labels: bool = True) -> Case:
    """What the server sees and is told under secure aggregation."""
    counts = [len(case.images) for case in cases]
    weights = [count / sum(counts) for count in counts]
    first = cases[0]
    received = {
        name: torch.stack([w * c.update.received[name] for w, c in zip(weights, cases, strict=True)]).sum(0)
        for name in first.update.sent
        if first.update.sent[name].dtype.is_floating_point
    }
    details = [case.knowledge.training if level == "C" else None for case in cases]
    marks = [case.knowledge.labels if grant_labels else None for case in cases]
    shares = tuple(map(Share, weights, counts, details, marks))
    every = torch.cat([case.labels for case in cases])
    return Case(
        replace(first.update, received=received, metrics={"num-examples": sum(counts)}),
        replace(
            first.knowledge,
            training=details[0],
            labels=every if grant_labels else None,
            cohort=shares,
        ),
        torch.cat([case.images for case in cases]),
        every,
    )


def prepared(case: Case) -> Problem:
    return prepare(case.update, case.knowledge, seed=0, who="test", device=CPU, progress=Progress())


def explains(problem: Problem, case: Case, *, functional: bool = False) -> bool:
    gradient = functional_gradient if functional else None
    seen = simulate(problem, case.images, case.labels, gradient=gradient)
    size = max(float(value.abs().max()) for value in problem.observed.values())
    return all(torch.allclose(seen[k], v, rtol=1e-3, atol=1e-5 * size) for k, v in problem.observed.items())


def test_one_step_each_is_one_step_on_all_images() -> None:
    case = aggregated(clients("small", [STEP] * 3))
    problem = prepared(case)
    assert (problem.num_images, problem.step_sizes, problem.cohort) == (6, (6,), ())
    assert problem.is_gradient
    assert problem.exact_scale
    assert explains(problem, case)


DIFFERENT = {
    "several steps": [replace(STEPS, local_steps=1)] * 2 + [replace(STEPS, learning_rate=0.05)],
    "other optimisers": [STEP, replace(STEP, optimizer="adam", learning_rate=0.01), STEP],
    "clipped": [replace(STEP, clip_norm=0.2)] * 3,
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_else_each_client_is_simulated_and_the_mean_is_taken(kind: str) -> None:
    case = aggregated(clients("small", DIFFERENT[kind]))
    problem = prepared(case)
    assert [member.problem.num_images for member in problem.cohort] == [2, 3, 1]
    assert (problem.num_images, problem.is_gradient, problem.first_pass) == (6, False, problem.step_sizes)
    assert explains(problem, case)
    assert explains(problem, case, functional=True)
    assert (problem.gradient_scale is None) == (kind != "several steps")
    assert merged([problem, problem]) == [[0], [1]]


def test_several_passes_of_each() -> None:
    case = aggregated(clients("small", [replace(STEPS, local_steps=2)] * 3, passes=2))
    problem = prepared(case)
    assert (problem.num_images, problem.step_sizes) == (6, (2, 3, 1))
    assert [member.problem.step_sizes for member in problem.cohort] == [(2, 2), (3, 3), (1, 1)]
    assert explains(problem, case)
    # A constant gradient of 1 moves each client by 0.1 and then 0.19, of which each has its share.
    assert problem.gradient_scale == pytest.approx(0.29)


def test_batches_of_different_clients_do_not_mix_in_batch_norm() -> None:
    labels = ((0, 2), (1, 2, 0), (2, 1))
    cases = clients("norm-without-dropout", [replace(STEP, train_mode=True)] * 3, labels=labels)
    problem = prepared(aggregated(cases))
    assert len(problem.cohort) == 3
    assert problem.buffers_received == {}
    assert explains(problem, aggregated(cases))


def test_bounded_memory_gives_the_same() -> None:
    case = aggregated(clients("small", [replace(STEPS, local_steps=2)] * 3, passes=2))
    plain = prepared(case)
    kept = replace(
        plain,
        cohort=tuple(
            replace(member, problem=replace(member.problem, checkpointed=True)) for member in plain.cohort
        ),
    )
    slopes = []
    for problem in (plain, kept):
        images = case.images.clone().requires_grad_()
        moved = simulate(problem, images, case.labels).values()
        total = torch.stack([value.square().sum() for value in moved]).sum()
        slopes.append(torch.autograd.grad(total, images)[0])
    assert torch.allclose(slopes[0], slopes[1], rtol=1e-4, atol=1e-6 * float(slopes[0].abs().max()))


def test_without_details_it_is_one_gradient_of_all_images() -> None:
    problem = prepared(aggregated(clients("small", [STEP] * 3), level="B", grant_labels=False))
    assert (problem.num_images, problem.step_sizes, problem.training) == (6, (6,), None)
    assert not problem.exact_scale
    many = [tuple(number % 3 for number in range(40))] * 2
    crowd = prepared(aggregated(clients("small", [STEP] * 2, labels=many), grant_labels=False))
    assert (crowd.num_images, crowd.step_sizes) == (MAX_IMAGES, (MAX_IMAGES,))
    assert [note for note in crowd.notes if "attempted" in note] == [crowd.left_out]
    assert "80 images" in str(crowd.left_out)
    attack = attacks.create("inverting-gradients:iterations=1,restarts=1")
    case = aggregated(clients("small", [STEP] * 2, labels=[tuple(range(3)) * 25] * 2), grant_labels=False)
    result = attack.run(case.update, case.knowledge, seed=0, device=CPU)
    assert (result.status, None if result.images is None else len(result.images)) == ("done", MAX_IMAGES)
    assert "of 150 images; 64 are attempted" in str(result.unattempted)
    assert [note for note in result.notes if "attempted" in note] == [result.unattempted]
    single = attacks.create("r-gap").run(case.update, case.knowledge, seed=0, device=CPU)
    assert single.status == "failed"
    assert single.unattempted == single.reason


@pytest.mark.parametrize("factor", [3.0, float("nan"), -1.0])
def test_weights_that_are_not_those_of_a_mean_are_refused(factor: float) -> None:
    case = aggregated(clients("small", [STEP] * 3))
    shares = tuple(replace(share, weight=factor * share.weight) for share in case.knowledge.cohort)
    with pytest.raises(ConfigError, match="add up to 1"):
        prepared(replace(case, knowledge=replace(case.knowledge, cohort=shares)))


def test_an_aggregate_of_one_is_that_client() -> None:
    case = clients("small", [STEP], labels=[(0, 1)])[0]
    problem, alone = prepared(aggregated([case])), prepared(case)
    assert (problem.step_sizes, problem.cohort) == (alone.step_sizes, ())
    assert explains(problem, case)


def test_an_attack_takes_an_aggregate() -> None:
    case = aggregated(clients("small", [STEP] * 2, labels=[(0,), (2,)]))
    attack = attacks.create("dlg:iterations=80,restarts=2")
    result = attack.run(case.update, case.knowledge, seed=0, device=CPU)
    assert result.images is not None
    assert torch.allclose(result.images, case.images, atol=0.05)
    several = aggregated(clients("small", [STEPS] * 2, labels=[(0,), (2,)], passes=2))
    assert attack.run(several.update, several.knowledge, seed=0, device=CPU).status == "done"
