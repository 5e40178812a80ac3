"""The batch-norm prior against plain PyTorch: a client's own batch has distance 0."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fl_audit.attacks import AttackFailed
from fl_audit.attacks.bn_prior import BatchNormPrior
from fl_audit.core.types import TrainingDetails
from tests.attacks.cases import Case, make_case, snapshot
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


def test_images_of_each_step_count_by_their_share() -> None:
    details = TrainingDetails(learning_rate=1e-7, local_steps=3, batch_size=2, train_mode=True)
    case = make_case("norm-without-dropout", labels=(0, 1, 1, 0, 1, 0), training=details)
    penalty = BatchNormPrior(1.0, "inferred").bind([problem_of(case)], 1)
    own = penalty(case.images[None])
    other = penalty(case.images[None, [2, 1, 0, 3, 4, 5]])
    assert float(own) == pytest.approx(0, abs=1e-3)
    assert float(other) > 10 * float(own)


def test_a_clients_own_batch_has_distance_zero_among_rows_of_other_clients(deep: Callable[..., Case]) -> None:
    first, second = (deep(labels=(0, 1, 1), training=TRAINED, seed=seed) for seed in (0, 1))
    second = replace(second, knowledge=first.knowledge)
    received = _retrained(first, second.images, second.labels)
    second = replace(second, update=replace(second.update, sent=first.update.sent, received=received))
    penalty = BatchNormPrior(1.0, "inferred").bind([problem_of(first), problem_of(second)], 2)
    images = torch.stack([first.images, second.images, first.images, second.images])
    values = penalty(images).tolist()
    assert values[0] == pytest.approx(0, abs=1e-4)
    assert values[3] == pytest.approx(0, abs=1e-4)
    assert min(values[1:3]) > 1e-2


def _retrained(case: Case, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    model = loaded(case, train=True)
    optimiser = torch.optim.SGD(model.parameters(), lr=TRAINED.learning_rate)
    torch.autograd.backward(nn.functional.cross_entropy(model(images), labels))
    optimiser.step()
    return snapshot(model)


def test_the_distance_is_that_of_a_loop_over_an_ordinary_model(deep: Callable[..., Case]) -> None:
    case, numbers = known_case(deep)
    images = random(2, *case.images.shape, seed=5).float()
    values = BatchNormPrior(2.0, "running").bind([problem_of(case)], 2)(images)
    model = loaded(case, train=False)
    # Each layer normalises by the biased variance of as many values as the batch has.
    for name, places in (("1", 64), ("4", 9), ("7", 1)):
        count = 3 * places
        norm = model.get_submodule(name)
        assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
        assert norm.running_var is not None
        norm.running_var *= (count - 1) / count
    for row in range(2):
        layers = []
        seen = inputs_of_norms(model, images[row])
        for (mean, variance), inputs in zip(numbers.values(), seen, strict=True):
            own = [mean_and_variance(inputs, channel) for channel in range(len(mean))]
            a = math.dist([one[0] for one in own], mean.tolist()) / math.sqrt(float(variance.sum()))
            b = math.dist([one[1] for one in own], variance.tolist()) / math.hypot(*variance.tolist())
            layers.append(a + b)
        assert float(values[row]) == pytest.approx(2 * sum(layers) / 3, rel=1e-4)


def test_its_slope_is_that_of_finite_differences(deep: Callable[..., Case]) -> None:
    case, _ = known_case(deep)
    problem = problem_of(case)
    problem.model.double()
    double = {name: value.double() for name, value in problem.buffers_sent.items()}
    penalty = BatchNormPrior(1.0, "running").bind([replace(problem, buffers_sent=double)], 1)
    images = random(1, *case.images.shape, seed=5).requires_grad_()
    assert torch.autograd.gradcheck(penalty, (images,))


def test_a_client_without_statistics_is_noted_and_pays_nothing(deep: Callable[..., Case]) -> None:
    case = deep(labels=(0, 1, 1), training=TRAINED)
    problems = [problem_of(case), problem_of(without_buffers(case))]
    images = random(4, *case.images.shape).float()
    with pytest.raises(AttackFailed, match="do not send"):
        BatchNormPrior(1.0, "inferred").bind(problems, 2)
    values = BatchNormPrior(1.0, "best", needed=False).bind(problems, 2)(images)
    alone = BatchNormPrior(1.0, "best").bind(problems[:1], 2)(images[:2])
    assert torch.allclose(values[:2], alone)
    assert values[2:].tolist() == [0.0, 0.0]
    assert any("batch-norm statistics are not used: " in note for note in problems[1].notes)
    assert not any("batch-norm" in note for note in problems[0].notes)
    none = problem_of(make_case("small", labels=(0, 1, 1)))
    nothing = BatchNormPrior(1.0, "best", needed=False).bind([none], 4)(images.requires_grad_())
    assert nothing.tolist() == [0.0] * 4
    assert not bool(torch.autograd.grad(nothing.sum(), images)[0].any())
    assert any("the model has no batch norm" in note for note in none.notes)
