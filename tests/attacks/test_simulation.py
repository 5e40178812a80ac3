"""The attacker's simulation against PyTorch's own training, step by step."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fl_audit.attacks import AttackFailed, Problem
from fl_audit.attacks.client_optimisers import total_rate
from fl_audit.attacks.problem import prepare
from fl_audit.attacks.simulation import check_differentiable, simulate
from fl_audit.core.errors import ConfigError
from fl_audit.core.progress import Progress
from fl_audit.core.types import TrainingDetails
from tests.attacks.cases import CPU, Case, make_case


def prepared(case: Case) -> Problem:
    return prepare(case.update, case.knowledge, seed=0, who="test", device=CPU, progress=Progress())


EVERYTHING = TrainingDetails(learning_rate=0.1, momentum=0.9, weight_decay=0.01, nesterov=True)
ADAM = TrainingDetails(optimizer="adam", learning_rate=0.01, weight_decay=0.01)
TRAININGS = {
    "one step": TrainingDetails(learning_rate=0.1, batch_size=4),
    "one step, everything on": replace(EVERYTHING, batch_size=4),
    "one step, dampening": TrainingDetails(learning_rate=0.1, momentum=0.9, dampening=0.5, batch_size=4),
    "one step, a schedule's": replace(EVERYTHING, batch_size=4, learning_rates=(0.2,)),
    "two steps": TrainingDetails(learning_rate=0.3, local_steps=2, batch_size=2),
    "momentum": TrainingDetails(learning_rate=0.3, momentum=0.9, local_steps=4, batch_size=1),
    "dampening": TrainingDetails(learning_rate=0.3, momentum=0.9, dampening=0.3, local_steps=4, batch_size=1),
    "nesterov": replace(EVERYTHING, local_steps=4),
    "weight decay": TrainingDetails(learning_rate=0.3, weight_decay=0.1, local_steps=4, batch_size=1),
    "both, short last step": TrainingDetails(
        learning_rate=0.3, momentum=0.5, weight_decay=0.1, local_steps=2, batch_size=3
    ),
    "schedule": replace(EVERYTHING, local_steps=4, learning_rates=(0.1, 0.05, 0.2, 0.01)),
    "train mode": TrainingDetails(learning_rate=0.1, batch_size=4, train_mode=True),
    "train mode, two steps": TrainingDetails(learning_rate=0.1, local_steps=2, batch_size=2, train_mode=True),
    "adam, one step": replace(ADAM, batch_size=4),
    "adam": replace(ADAM, local_steps=4),
    "adam with its own betas": replace(ADAM, betas=(0.5, 0.9), eps=1e-3, local_steps=2, batch_size=2),
    "amsgrad": replace(ADAM, amsgrad=True, betas=(0.5, 0.5), local_steps=4),
    "adamw": replace(ADAM, optimizer="adamw", weight_decay=0.3, local_steps=4),
    "clipped": replace(EVERYTHING, local_steps=4, clip_norm=0.3),
    "hardly clipped": replace(EVERYTHING, local_steps=4, clip_norm=1.5),
    "adam, clipped": replace(ADAM, local_steps=2, batch_size=2, clip_norm=0.1),
    "one step, not clipped": replace(EVERYTHING, batch_size=4, clip_norm=1e3),
}


@pytest.mark.parametrize("kind", TRAININGS)
@pytest.mark.parametrize("net", ["small", "dense", "norm-without-dropout"])
def test_simulating_the_true_images_gives_the_observed_update(net: str, kind: str) -> None:
    training = TRAININGS[kind]
    case = make_case(net, labels=(0, 2, 2, 1), classes=3, training=training)
    problem = prepared(case)
    assert problem.exact_scale
    assert sum(problem.step_sizes) == 4
    seen = simulate(problem, case.images, case.labels)
    assert list(seen) == list(problem.observed)
    for name, value in problem.observed.items():
        assert torch.allclose(seen[name], value, rtol=1e-3, atol=3e-6), name


@pytest.mark.parametrize("kind", ["one step", "nesterov", "adam", "adam, one step", "clipped"])
def test_its_slope_is_that_of_finite_differences(kind: str) -> None:
    case = make_case("small", labels=(0, 2, 2, 1), classes=3, training=TRAININGS[kind])
    problem = prepared(case)
    double = replace(
        problem,
        model=problem.model.double(),
        parameters={name: value.double() for name, value in problem.parameters.items()},
    )
    draw = torch.Generator().manual_seed(0)
    weights = [torch.randn(v.shape, generator=draw).double() for v in problem.parameters.values()]
    images, along = (torch.rand(problem.shape, generator=draw).double() for _ in range(2))

    def value(images: Tensor) -> Tensor:
        parts = zip(simulate(double, images, case.labels).values(), weights, strict=True)
        return torch.stack([(part * weight).sum() for part, weight in parts]).sum()

    (slope,) = torch.autograd.grad(value(images.requires_grad_()), images)
    step = 1e-7
    seen = float((value(images + step * along) - value(images - step * along)).detach()) / (2 * step)
    assert float((slope * along).sum()) == pytest.approx(seen, rel=1e-4)


def test_adam_is_differentiable_where_a_gradient_is_exactly_zero() -> None:
    case = make_case("dense", labels=(0, 1), training=replace(ADAM, weight_decay=0.0, local_steps=2))
    images = case.images.clone().requires_grad_()
    problem = prepared(case)
    total = torch.stack([value.sum() for value in simulate(problem, images, case.labels).values()]).sum()
    (slope,) = torch.autograd.grad(total, images)
    assert bool(torch.isfinite(slope).all())
    assert bool(slope.any())


def test_fedprox_is_simulated_where_the_server_asks_for_it() -> None:
    training = TrainingDetails(learning_rate=0.3, local_steps=4, batch_size=1)
    case = make_case(labels=(0, 2, 2, 1), classes=3, training=training, proximal=2.0)
    problem = prepared(case)
    assert any("FedProx" in note for note in problem.notes)
    seen = simulate(problem, case.images, case.labels)
    without = simulate(replace(problem, proximal=0.0), case.images, case.labels)
    for name, value in problem.observed.items():
        assert torch.allclose(seen[name], value, rtol=1e-3, atol=3e-6), name
        assert not torch.allclose(without[name], value, rtol=1e-2), name


@pytest.mark.parametrize("granted", [True, False])
def test_images_of_several_passes_are_shared(granted: bool) -> None:
    training = TrainingDetails(learning_rate=0.1, momentum=0.9, local_steps=2, batch_size=5)
    order = (0, 1, 2, 3, 4, *(3, 1, 4, 0, 2)) if granted else (0, 1, 2, 3, 4) * 2
    case = make_case(
        labels=(0, 3, 2, 1, 4),
        classes=5,
        training=training,
        order=order,
        metrics={"num-examples": 5},
        grant_labels=granted,
    )
    problem = prepared(case)
    assert (problem.num_images, problem.step_sizes, problem.first_pass) == (5, (5, 5), (5,))
    assert problem.uses is not None
    assert problem.uses.tolist() == list(order)
    if granted:
        assert problem.labels is not None
        assert problem.labels.tolist() == [0, 3, 2, 1, 4]
    seen = simulate(problem, case.images, case.labels)
    assert all(torch.allclose(seen[k], v, rtol=1e-3, atol=3e-6) for k, v in problem.observed.items())


def test_the_scale_of_the_sum_of_gradients_is_what_sgd_makes_of_a_constant_one() -> None:
    for details in (TRAININGS[name] for name in ("momentum", "dampening", "nesterov", "schedule")):
        weight = nn.Parameter(torch.zeros((), dtype=torch.float64))
        optimiser = torch.optim.SGD(
            [weight],
            lr=0.1,
            momentum=details.momentum,
            dampening=details.dampening,
            nesterov=details.nesterov,
        )
        for rate in details.learning_rates or (details.learning_rate,) * 4:
            optimiser.param_groups[0]["lr"] = rate
            weight.grad = torch.ones((), dtype=torch.float64)
            optimiser.step()
        assert total_rate(details, 4) == pytest.approx(-float(weight.detach()))


def test_a_unit_step_is_minus_the_learning_rate_times_the_gradient() -> None:
    case = make_case(labels=(1,), training=TrainingDetails(learning_rate=0.25))
    model = case.knowledge.model
    assert model is not None
    model.load_state_dict(dict(case.update.sent))
    torch.autograd.backward(cross_entropy(model(case.images), case.labels))
    problem = prepared(case)
    delta = case.update.delta()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(delta[name], -0.25 * parameter.grad, atol=1e-7)
        assert torch.allclose(problem.observed[name], parameter.grad, atol=1e-6)


def test_a_clipped_gradient_has_its_direction_and_not_its_length() -> None:
    details = replace(EVERYTHING, batch_size=4, clip_norm=0.2)
    case = make_case("small", labels=(0, 2, 2, 1), classes=3, training=details)
    problem = prepared(case)
    assert problem.is_gradient
    assert not problem.exact_scale
    assert problem.gradient_scale is None
    seen, observed = (
        torch.cat([value.flatten() for value in values.values()])
        for values in (simulate(problem, case.images, case.labels), problem.observed)
    )
    assert float(observed.norm()) == pytest.approx(0.2, rel=1e-3)
    assert float(torch.nn.functional.cosine_similarity(seen.detach(), observed, dim=0)) > 1 - 1e-5


def test_a_gradient_that_was_clipped_and_sent_as_such_has_lost_its_length() -> None:
    case = make_case(labels=(1,), training=TrainingDetails(learning_rate=1.0))
    sent = {name: -value for name, value in case.update.delta().items()}
    length = float(torch.cat([value.flatten() for value in sent.values()]).norm())
    for norm, exact in ((2 * length, True), (length, False)):
        details = TrainingDetails(learning_rate=1.0, clip_norm=norm)
        knowledge = replace(case.knowledge, sends="gradient", training=details)
        assert (
            prepared(
                replace(case, update=replace(case.update, received=sent), knowledge=knowledge)
            ).exact_scale
            is exact
        )


def test_without_all_that_was_clipped_together_the_scale_is_unknown() -> None:
    case = make_case(labels=(0, 2, 2, 1), classes=3, training=TRAININGS["clipped"])
    (name, *_) = case.update.sent
    rest = {key: value for key, value in case.update.received.items() if key != name}
    problem = prepared(replace(case, update=replace(case.update, received=rest)))
    assert not problem.exact_scale
    assert any("clipped together with those of parameters" in note for note in problem.notes)


@pytest.mark.parametrize("norm", [0.0, -1.0, float("nan"), float("inf")])
def test_a_norm_that_clips_nothing_or_everything_is_refused(norm: float) -> None:
    details = TrainingDetails(learning_rate=0.1, clip_norm=norm)
    case = make_case(training=TrainingDetails(learning_rate=0.1))
    with pytest.raises(ConfigError, match="clip_norm must be positive"):
        prepared(replace(case, knowledge=replace(case.knowledge, training=details)))


def test_several_clipped_steps_add_up_to_no_known_multiple_of_a_gradient() -> None:
    for kind, known in (("nesterov", True), ("clipped", False)):
        problem = prepared(make_case(labels=(0, 2, 2, 1), classes=3, training=TRAININGS[kind]))
        assert (problem.gradient_scale is not None) is known


class Rounding(nn.Module):
    """No slope from the logits to the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 2)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear((images.flatten(1) * 4).round())
        return logits


def test_no_differentiable_path_is_a_failure_with_the_reason() -> None:
    case = make_case()
    model = Rounding()
    sent = {name: value.clone() for name, value in model.state_dict().items()}
    received = {name: value + 0.01 for name, value in sent.items()}
    update = replace(case.update, sent=sent, received=received)
    problem = prepared(replace(case, update=update, knowledge=replace(case.knowledge, model=model)))
    with pytest.raises(AttackFailed, match="differentiable"):
        check_differentiable(problem, case.labels)
