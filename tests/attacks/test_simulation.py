"""The attacker's simulation against PyTorch's own training, and what `prepare` makes of an update."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fl_audit.attacks import AttackFailed, Problem
from fl_audit.attacks.problem import MAX_IMAGES, prepare
from fl_audit.attacks.simulation import check_differentiable, simulate
from fl_audit.core.errors import ConfigError
from fl_audit.core.progress import Progress
from fl_audit.core.types import TrainingDetails
from tests.attacks.cases import CPU, Case, make_case


def prepared(case: Case) -> Problem:
    return prepare(case.update, case.knowledge, seed=0, who="test", device=CPU, progress=Progress())


TRAININGS = {
    "one step": TrainingDetails(learning_rate=0.1, batch_size=4),
    "one step, everything on": TrainingDetails(
        learning_rate=0.1, momentum=0.9, weight_decay=0.01, batch_size=4
    ),
    "two steps": TrainingDetails(learning_rate=0.3, local_steps=2, batch_size=2),
    "momentum": TrainingDetails(learning_rate=0.3, momentum=0.9, local_steps=4, batch_size=1),
    "weight decay": TrainingDetails(learning_rate=0.3, weight_decay=0.1, local_steps=4, batch_size=1),
    "both, short last step": TrainingDetails(
        learning_rate=0.3, momentum=0.5, weight_decay=0.1, local_steps=2, batch_size=3
    ),
    "train mode": TrainingDetails(learning_rate=0.1, batch_size=4, train_mode=True),
    "train mode, two steps": TrainingDetails(learning_rate=0.1, local_steps=2, batch_size=2, train_mode=True),
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


def renamed(case: Case, names: dict[str, str]) -> Case:
    update = case.update
    sent = {names[name]: update.sent[name] for name in names}
    received = {names[name]: update.received[name] for name in names}
    return replace(case, update=replace(update, sent=sent, received=received))


@pytest.mark.parametrize("which", ["all", "floats", "parameters"])
def test_arrays_of_foreign_apps_are_matched_by_order_and_shape(which: str) -> None:
    case = make_case("norm", labels=(0, 1))
    assert case.knowledge.model is not None
    names = {
        "all": list(case.update.sent),
        "floats": [name for name, v in case.update.sent.items() if v.dtype.is_floating_point],
        "parameters": [name for name, _ in case.knowledge.model.named_parameters()],
    }[which]
    foreign = prepared(renamed(case, {name: str(number) for number, name in enumerate(names)}))
    own = prepared(case)
    assert list(foreign.observed) == list(own.observed)
    assert all(torch.equal(foreign.observed[name], own.observed[name]) for name in own.observed)


def test_arrays_that_do_not_fit_are_named() -> None:
    case = make_case()
    names = {name: str(number) for number, name in enumerate(case.update.sent)}
    swapped = renamed(case, dict(reversed(names.items())))
    with pytest.raises(ConfigError, match=r"does not fit the model.*order and shapes"):
        prepared(swapped)


def test_frozen_parameters_are_left_out_and_noted() -> None:
    case = make_case()
    received = {**case.update.received, "1.weight": case.update.sent["1.weight"].clone()}
    problem = prepared(replace(case, update=replace(case.update, received=received)))
    assert "1.weight" not in problem.observed
    assert "1.weight" in problem.constants
    assert any("1.weight" in note for note in problem.notes)


@pytest.mark.parametrize("train", [False, True])
def test_train_mode_shows_in_the_batch_norm_statistics(train: bool) -> None:
    details = TrainingDetails(batch_size=2, train_mode=train)
    case = make_case("norm", labels=(0, 1), training=details, grant_training=False)
    problem = prepared(case)
    norm = problem.model.get_submodule("1")
    assert norm.training is train
    assert any("train mode" in note if train else "eval mode" in note for note in problem.notes)
    assert not any(isinstance(m, nn.Dropout) and m.training for m in problem.model.modules())
    for buffers, arrays in (
        (problem.buffers_sent, case.update.sent),
        (problem.buffers_received, case.update.received),
    ):
        assert set(buffers) == {
            f"1.{kind}" for kind in ("running_mean", "running_var", "num_batches_tracked")
        }
        assert all(torch.equal(value, arrays[name]) for name, value in buffers.items())


def test_what_is_granted_of_the_data_reaches_the_problem() -> None:
    case = make_case()
    assert prepared(case).surrogate is None
    images, statistics = torch.rand(3, 1, 8, 8), {"1": (torch.zeros(6), torch.ones(6))}
    knowledge = replace(case.knowledge, surrogate=images, batch_norm=statistics)
    problem = prepared(replace(case, knowledge=knowledge))
    assert problem.surrogate is not None
    assert torch.equal(problem.surrogate, images)
    assert problem.batch_norm == statistics


def test_without_training_details_the_scale_is_unknown() -> None:
    case = make_case(labels=(0, 1), grant_training=False)
    problem = prepared(case)
    assert not problem.exact_scale
    delta = case.update.delta()
    assert all(torch.equal(value, -delta[name]) for name, value in problem.observed.items())


def test_dropout_and_epochs_that_are_not_simulated_are_noted() -> None:
    def noted(train: bool, dropout: str, images: int) -> list[bool]:
        details = TrainingDetails(local_steps=2, batch_size=2, train_mode=train)
        case = make_case(dropout, labels=(0, 1, 1, 0), training=details, metrics={"num-examples": images})
        notes = prepared(case).notes
        return [any(word in note for note in notes) for word in ("dropout is off", "as an image of its own")]

    assert noted(True, "norm", 4) == [True, False]
    assert noted(False, "norm", 4) == [False, False]
    assert noted(True, "norm-without-dropout", 2) == [False, True]


def test_another_optimiser_is_not_simulated_and_noted() -> None:
    case = make_case()
    knowledge = replace(case.knowledge, training=TrainingDetails(optimizer="adam"))
    problem = prepared(replace(case, knowledge=knowledge))
    assert not problem.exact_scale
    assert any("'adam'" in note for note in problem.notes)


def count(case: Case) -> tuple[int, tuple[int, ...]]:
    problem = prepared(case)
    return problem.num_images, problem.step_sizes


def test_the_number_of_images_comes_from_the_best_source() -> None:
    training = TrainingDetails(local_steps=2, batch_size=3)
    labels = (0, 1, 1, 0, 1)
    assert count(make_case(labels=labels, training=training)) == (5, (3, 2))
    assert count(make_case(labels=labels, training=training, grant_labels=False)) == (5, (3, 2))
    unsaid = make_case(labels=(0, 1) * 3, training=training, grant_labels=False, metrics={})
    assert count(unsaid) == (6, (3, 3))
    told = make_case(labels=labels, training=training, grant_labels=False, grant_training=False)
    assert count(told) == (5, (5,))
    nothing = make_case(grant_labels=False, grant_training=False, metrics={})
    assert count(nothing) == (1, (1,))
    many = make_case(grant_labels=False, grant_training=False, metrics={"num-examples": 500})
    assert count(many) == (MAX_IMAGES, (MAX_IMAGES,))
    assert any("500" in note for note in prepared(many).notes)


def test_two_epochs_with_a_short_step_each() -> None:
    training = TrainingDetails(local_steps=4, batch_size=3)
    case = make_case(grant_labels=False, metrics={"num-examples": 5})
    case = replace(case, knowledge=replace(case.knowledge, training=training))
    assert count(case) == (10, (3, 2, 3, 2))


def test_granted_labels_must_be_classes() -> None:
    case = make_case()
    knowledge = replace(case.knowledge, labels=torch.tensor([2]))
    with pytest.raises(ConfigError, match="labels"):
        prepared(replace(case, knowledge=knowledge))
