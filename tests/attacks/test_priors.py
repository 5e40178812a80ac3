"""Priors against loops over pixels and against plain PyTorch: a client's own batch has distance 0."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fl_audit.attacks import AttackFailed
from fl_audit.attacks.bn_prior import BatchNormPrior
from fl_audit.attacks.bn_statistics import Source, best_source, moments, statistics
from fl_audit.attacks.group_consistency import GroupConsistency, consensus, shifts
from fl_audit.attacks.priors import Norm, TotalVariation, opponent_variation, squared_norm, total_variation
from fl_audit.attacks.problem import Problem, prepare
from fl_audit.core.progress import Progress
from fl_audit.core.types import Knowledge, TrainingDetails
from tests.attacks.cases import CPU, NETS, Case, make_case, snapshot


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 2), st.sampled_from([1, 3]), st.integers(1, 4), st.integers(1, 4))
def test_opponents_equal_a_loop_over_pixels(seed: int, n: int, c: int, h: int, w: int) -> None:
    images = random(2, n, c, h, w, seed=seed)
    for row in range(2):
        down, right = [], []
        for i in range(n):
            planes = [images[row, i, k].tolist() for k in range(c)]
            for a, b in combinations(range(c), 2):
                planes.append([[planes[a][y][x] - planes[b][y][x] for x in range(w)] for y in range(h)])
            for plane in planes:
                down += [abs(plane[y + 1][x] - plane[y][x]) for y in range(h - 1) for x in range(w)]
                right += [abs(plane[y][x + 1] - plane[y][x]) for y in range(h) for x in range(w - 1)]
        expected = sum(down) / max(len(down), 1) + sum(right) / max(len(right), 1)
        assert float(opponent_variation(images)[row]) == pytest.approx(expected, abs=1e-12)


def test_a_grey_edge_costs_less_than_a_coloured_one() -> None:
    grey = torch.zeros(1, 1, 3, 4, 4)
    grey[..., 2:] = 0.5
    coloured = grey.clone()
    coloured[:, :, 0] = 0.5 - coloured[:, :, 0]
    assert torch.equal(total_variation(grey), total_variation(coloured))
    assert float(opponent_variation(grey)) < float(opponent_variation(coloured))


def test_the_weight_is_a_factor_and_the_norm_is_a_mean_square() -> None:
    case = make_case()
    images = random(2, 1, 1, 3, 3)
    pixels = images[1].flatten().tolist()
    assert float(squared_norm(images)[1]) == pytest.approx(sum(p * p for p in pixels) / 9)
    bound = Norm(2.0, centre=0.5).bind([problem_of(case)], 2)(images)
    assert float(bound[1]) == pytest.approx(2 * sum((p - 0.5) ** 2 for p in pixels) / 9)
    for colours, function in (("channels", total_variation), ("opponents", opponent_variation)):
        prior = TotalVariation(3.0, colours)  # type: ignore[arg-type]
        assert torch.equal(prior.bind([problem_of(case)], 2)(images), 3 * function(images))


def problem_of(case: Case) -> Problem:
    return prepare(case.update, case.knowledge, seed=0, who="t", device=CPU, progress=Progress())


def deep_norm_net(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Batch norm before and after a linear layer, and behind one another."""
    return nn.Sequential(
        nn.Conv2d(shape[0], 5, 3, padding=1),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Conv2d(5, 4, 3, stride=2),
        nn.BatchNorm2d(4, affine=False, momentum=0.3),
        nn.Flatten(),
        nn.Linear(36, 7),
        nn.BatchNorm1d(7, momentum=None),
        nn.ReLU(),
        nn.Linear(7, classes),
    )


@pytest.fixture
def deep(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Case]:
    """Makes cases of `deep_norm_net`."""
    monkeypatch.setitem(NETS, "deep norm", deep_norm_net)
    return lambda **changes: make_case("deep norm", **changes)


def inputs_of_norms(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Inputs of the batch-norm layers of ``model`` as it is, by plain hooks."""
    seen: list[Tensor] = []
    handles = [
        module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
        for module in model.modules()
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
    ]
    model(images)
    for handle in handles:
        handle.remove()
    return seen


def loaded(case: Case, *, train: bool) -> nn.Module:
    """The client's model before training."""
    assert case.knowledge.model is not None
    model = copy.deepcopy(case.knowledge.model)
    model.load_state_dict(case.update.sent)
    return model.train(train)


def mean_and_variance(inputs: Tensor, channel: int) -> tuple[float, float]:
    """By a loop over numbers; the variance is unbiased."""
    values = inputs[:, channel].reshape(-1).tolist()
    mean = sum(values) / len(values)
    return mean, sum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1)


TRAINED = TrainingDetails(batch_size=3, train_mode=True)


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


def known_case(make: Callable[..., Case]) -> tuple[Case, dict[str, tuple[Tensor, Tensor]]]:
    """A client in eval mode of a model whose running statistics are some numbers, and these."""
    case = make(labels=(0, 1, 1))
    numbers = {
        name: (random(size, seed=size).float() - 0.5, random(size, seed=size + 1).float() + 0.5)
        for name, size in (("1", 5), ("4", 4), ("7", 7))
    }
    buffers = {
        f"{name}.{kind}": value
        for name, pair in numbers.items()
        for kind, value in zip(("running_mean", "running_var"), pair, strict=True)
    }
    sent, received = ({**arrays, **buffers} for arrays in (case.update.sent, case.update.received))
    return replace(case, update=replace(case.update, sent=sent, received=received)), numbers


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


def without_buffers(case: Case) -> Case:
    assert case.knowledge.model is not None
    names = [name for name, _ in case.knowledge.model.named_parameters()]
    sent, received = ({n: arrays[n] for n in names} for arrays in (case.update.sent, case.update.received))
    return replace(case, update=replace(case.update, sent=sent, received=received))


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


def test_group_consistency_is_the_distance_to_the_mean_of_the_clients_restarts() -> None:
    problem = problem_of(make_case(labels=(0, 1)))
    images = random(6, 2, 1, 8, 8)
    values = GroupConsistency(3.0).bind([problem] * 2, 3)(images)
    for row in range(6):
        mates = range(row // 3 * 3, row // 3 * 3 + 3)
        mean = sum(images[mate] for mate in mates) / 3
        assert isinstance(mean, Tensor)
        assert float(values[row]) == pytest.approx(3 * float((images[row] - mean).square().mean()))
    assert GroupConsistency(3.0).bind([problem] * 6, 1)(images).tolist() == [0.0] * 6


def test_restarts_pull_each_other_but_the_consensus_is_fixed() -> None:
    problem = problem_of(make_case())
    images = random(2, 1, 1, 8, 8).requires_grad_()
    penalty = GroupConsistency(1.0).bind([problem], 2)(images)
    (slope,) = torch.autograd.grad(penalty.sum(), images)
    mean = images.detach().mean(0, keepdim=True)
    assert torch.allclose(slope, 2 * (images.detach() - mean) / 64)


@pytest.mark.parametrize("move", [(0, 0), (2, -1), (-3, 3)])
def test_a_shift_is_found_and_shifted_restarts_agree_once_registered(move: tuple[int, int]) -> None:
    image = random(3, 9, 8)
    moved = image.roll(move, (-2, -1))
    assert shifts(moved, image, 3).tolist() == [-move[0], -move[1]]
    restarts = torch.stack([image, image, moved])[None, :, None]
    agreed = consensus(restarts, 3)
    assert torch.allclose(agreed.expand_as(restarts), restarts)
    assert move == (0, 0) or not torch.allclose(consensus(restarts).expand_as(restarts), restarts)
