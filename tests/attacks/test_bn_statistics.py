"""Batch-norm statistics of every source against loops over what plain PyTorch computes."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from fl_audit.attacks import AttackFailed
from fl_audit.attacks.bn_prior import BatchNormPrior
from fl_audit.attacks.bn_statistics import Source, best_source, moments, statistics
from fl_audit.core.knowledge import Knowledge
from fl_audit.core.types import TrainingDetails
from tests.attacks.cases import Case, make_case
from tests.attacks.norms import (
    TRAINED,
    inputs_of_norms,
    known_case,
    loaded,
    mean_and_variance,
    problem_of,
    random,
    without_buffers,
)


def test_the_statistics_of_a_client_follow_from_what_it_sends(deep: Callable[..., Case]) -> None:
    case = deep(labels=(0, 1, 1), training=TRAINED)
    found = statistics(problem_of(case), "inferred")
    seen = inputs_of_norms(loaded(case, train=True), case.images)
    assert list(found) == ["1", "4", "7"]
    for known, inputs in zip(found.values(), seen, strict=True):
        for channel in range(inputs.shape[1]):
            mean, variance = mean_and_variance(inputs, channel)
            assert float(known.mean[channel]) == pytest.approx(mean, abs=1e-5)
            assert float(known.variance[channel]) == pytest.approx(variance, rel=1e-3, abs=1e-6)
        assert bool(known.known.all())


def test_over_several_steps_they_are_an_average_that_forgets(deep: Callable[..., Case]) -> None:
    details = TrainingDetails(learning_rate=1e-7, local_steps=3, batch_size=2, train_mode=True)
    case = deep(labels=(0, 1, 1, 0, 1, 0), training=details)
    problem = problem_of(case)
    found = statistics(problem, "inferred")
    model = loaded(case, train=True)
    steps = [inputs_of_norms(model, part) for part in torch.split(case.images, 2)]
    for place, (known, momentum) in enumerate(zip(found.values(), (0.1, 0.3, None), strict=True)):
        factors = [1.0] * 3 if momentum is None else [(1 - momentum) ** (2 - step) for step in range(3)]
        assert known.weights == pytest.approx([factor / sum(factors) for factor in factors])
        for channel in range(len(known.mean)):
            each = [mean_and_variance(step[place], channel) for step in steps]
            mean, variance = (
                sum(factor * one[kind] for factor, one in zip(factors, each, strict=True)) / sum(factors)
                for kind in (0, 1)
            )
            assert float(known.mean[channel]) == pytest.approx(mean, abs=1e-4)
            assert float(known.variance[channel]) == pytest.approx(variance, rel=1e-2, abs=1e-5)


def test_surrogates_and_granted_statistics_are_used(deep: Callable[..., Case]) -> None:
    case = deep(labels=(0, 1, 1), training=TRAINED)
    surrogate = random(20, 1, 8, 8, seed=3).float()
    problem = problem_of(replace(case, knowledge=replace(case.knowledge, surrogate=surrogate)))
    found = statistics(problem, "surrogate")
    seen = inputs_of_norms(loaded(case, train=True), surrogate)
    for known, inputs in zip(found.values(), seen, strict=True):
        own = [mean_and_variance(inputs, channel) for channel in range(inputs.shape[1])]
        assert known.mean.tolist() == pytest.approx([one[0] for one in own], abs=1e-5)
        assert known.variance.tolist() == pytest.approx([one[1] for one in own], rel=1e-3)
    grant = {name: (known.mean, known.variance) for name, known in found.items()}
    granted = problem_of(replace(case, knowledge=replace(case.knowledge, batch_norm=grant)))
    for name, known in statistics(granted, "granted").items():
        assert torch.equal(known.mean, found[name].mean)
        assert torch.equal(known.variance, found[name].variance)


def noised(case: Case) -> Case:
    received = {
        name: value - 1.0 if name.endswith("running_var") else value
        for name, value in case.update.received.items()
    }
    return replace(case, update=replace(case.update, received=received))


def granting(case: Case, **changes: object) -> Case:
    knowledge: Knowledge = replace(case.knowledge, **changes)  # type: ignore[arg-type]
    return replace(case, knowledge=knowledge)


REFUSED: dict[str, tuple[Source, bool, Callable[[Case], Case], str]] = {
    "eval mode": ("inferred", False, lambda case: case, "unchanged: the clients ran in eval mode"),
    "not sent back": ("inferred", True, without_buffers, "do not send their batch-norm statistics"),
    "not sent": ("running", True, without_buffers, "does not send batch-norm statistics"),
    "noise": ("inferred", True, noised, "negative variance"),
    "untrained": ("running", True, lambda case: case, "of an untrained model"),
    "no surrogates": ("surrogate", True, lambda case: case, "no surrogate images are granted"),
    "other surrogates": (
        "surrogate",
        True,
        lambda case: granting(case, surrogate=torch.rand(4, 3, 8, 8)),
        r"shape \(3, 8, 8\), the clients' \(1, 8, 8\)",
    ),
    "not granted": ("granted", True, lambda case: case, "granted for 1, 4, 7"),
    "granted in part": (
        "granted",
        True,
        lambda case: granting(case, batch_norm={n: (torch.zeros(5), torch.ones(5)) for n in ("1", "4", "7")}),
        r"'4' have another shape than \(4,\)",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_source_that_has_nothing_says_why(why: str, deep: Callable[..., Case]) -> None:
    source, train, change, said = REFUSED[why]
    case = change(deep(labels=(0, 1, 1), training=replace(TRAINED, train_mode=train)))
    with pytest.raises(AttackFailed, match=said):
        statistics(problem_of(case), source)


def test_the_best_source_is_found_and_a_model_without_batch_norm_has_none(deep: Callable[..., Case]) -> None:
    trained = deep(labels=(0, 1, 1), training=TRAINED)
    still = deep(labels=(0, 1, 1), training=replace(TRAINED, train_mode=False))
    assert best_source(problem_of(trained)) == "inferred"
    assert best_source(problem_of(known_case(deep)[0])) == "running"
    assert best_source(problem_of(granting(still, surrogate=torch.rand(4, 1, 8, 8)))) == "surrogate"
    with pytest.raises(AttackFailed, match=r"untrained.*no surrogate"):
        best_source(problem_of(still))
    with pytest.raises(AttackFailed, match="has no batch norm"):
        best_source(problem_of(make_case("small")))


def test_pruned_statistics_are_left_out(deep: Callable[..., Case]) -> None:
    case = deep(labels=(0, 1, 1), training=TRAINED)
    kept = {**case.update.received, "1.running_mean": case.update.received["1.running_mean"].clone()}
    kept["1.running_mean"][2] = case.update.sent["1.running_mean"][2]
    problem = problem_of(replace(case, update=replace(case.update, received=kept)))
    assert statistics(problem, "inferred")["1"].known.tolist() == [True, True, False, True, True]
    value = BatchNormPrior(1.0, "inferred").bind([problem], 1)(case.images[None])
    assert math.isfinite(float(value))


def test_moments_of_groups_equal_loops() -> None:
    for shape in ((5, 2), (5, 2, 3), (5, 2, 3, 2)):
        inputs = random(*shape)
        means, variances = moments(inputs, [2, 3])
        for group, part in enumerate(torch.split(inputs, [2, 3])):
            for channel in range(2):
                expected = mean_and_variance(part, channel)
                found = float(means[group, channel]), float(variances[group, channel])
                assert found == pytest.approx(expected, abs=1e-12)
