"""What `prepare` makes of an update: arrays of any form, counts, labels, modes; and what it refuses."""

import pytest
import torch
from torch import nn

from fl_audit.attacks import AttackFailed, Problem
from fl_audit.core.errors import ConfigError
from fl_audit.core.types import TrainingDetails
from tests.attacks.cases import Case, make_case
from tests.attacks.preparing import changed, granting, noted, prepared


def same(one: Problem, other: Problem, atol: float = 0.0) -> bool:
    return list(one.observed) == list(other.observed) and all(
        torch.allclose(one.observed[name], other.observed[name], rtol=1e-5, atol=atol)
        for name in other.observed
    )


def renamed(case: Case, names: dict[str, str]) -> Case:
    sent = {names[name]: case.update.sent[name] for name in names}
    return changed(case, sent=sent, received={names[name]: case.update.received[name] for name in names})


@pytest.mark.parametrize("which", ["all", "floats", "parameters"])
def test_arrays_of_foreign_apps_are_matched_by_order_and_shape(which: str) -> None:
    case = make_case("norm", labels=(0, 1))
    assert case.knowledge.model is not None
    names = {
        "all": list(case.update.sent),
        "floats": [name for name, v in case.update.sent.items() if v.dtype.is_floating_point],
        "parameters": [name for name, _ in case.knowledge.model.named_parameters()],
    }[which]
    numbers = {name: str(number) for number, name in enumerate(names)}
    own, foreign = prepared(case), prepared(renamed(case, numbers))
    assert same(foreign, own)
    received = {numbers[name]: case.update.received[name] for name in names}
    answered = prepared(changed(case, received=received))
    assert same(answered, own)
    assert noted(answered, "other names")


def test_arrays_that_do_not_fit_are_named() -> None:
    case = make_case()
    names = {name: str(number) for number, name in enumerate(case.update.sent)}
    swapped = renamed(case, dict(reversed(names.items())))
    with pytest.raises(ConfigError, match=r"does not fit the model.*order and shapes"):
        prepared(swapped)


def test_answers_that_are_none_are_failures_with_the_reason() -> None:
    case = make_case()
    wrong = {**case.update.received, "1.weight": torch.zeros(3)}
    for received, why in (
        (wrong, r"'1.weight' has shape \(3,\), expected \(8, 1, 3, 3\)"),
        ({"a": torch.zeros(1)}, r"'a'.*are not those sent.*missing"),
        ({**case.update.received, "1.bias": torch.full((8,), torch.inf)}, "'1.bias' contains inf"),
        (dict(case.update.sent), "the update is zero"),
    ):
        with pytest.raises(AttackFailed, match=why):
            prepared(changed(case, received=received))
    with pytest.raises(AttackFailed, match="the client failed: boom"):
        prepared(changed(case, error="boom"))


def test_arrays_that_are_missing_or_were_not_asked_for_are_left_out_and_noted() -> None:
    case = make_case("norm-without-dropout", labels=(0, 1))
    buffers = [name for name in case.update.received if "running" in name or "num_batches" in name]
    received = {name: value for name, value in case.update.received.items() if name not in buffers}
    problem = prepared(changed(case, received={**received, "control": torch.ones(3)}))
    assert same(problem, prepared(case))
    assert problem.buffers_received == {}
    assert noted(problem, "did not send them back: '1.running_mean'")
    assert noted(problem, "not sent to the client: 'control'")
    received.pop("5.weight")
    assert "5.weight" not in prepared(changed(case, received=received)).observed
    only = {name: case.update.received[name] + 1 for name in buffers}
    with pytest.raises(AttackFailed, match="no parameter of the model came back"):
        prepared(changed(case, received=only))


def test_a_record_of_its_own_and_parameters_that_are_never_trained_need_not_fit() -> None:
    case = make_case()
    model = case.knowledge.model
    assert model is not None
    control = {"controls/1.weight": torch.zeros(5)}
    problem = prepared(changed(case, sent={**case.update.sent, **control}))
    assert same(problem, prepared(case))
    assert noted(problem, "controls/1.weight")
    for name in ("1.weight", "1.bias"):
        model.get_parameter(name).requires_grad_(False)
    kept = {name: value for name, value in case.update.sent.items() if not name.startswith("1.")}
    partial = prepared(changed(case, sent=kept))
    assert list(partial.observed) == list(kept)
    assert torch.equal(partial.constants["1.weight"], model.get_parameter("1.weight"))
    assert noted(partial, "values of the model granted")


@pytest.mark.parametrize("net", ["small", "norm-without-dropout"])
def test_a_difference_is_told_from_weights(net: str) -> None:
    case = make_case(net, labels=(0, 1), training=TrainingDetails(batch_size=2, train_mode=True))
    pairs = {name: (value, case.update.sent[name]) for name, value in case.update.received.items()}
    plain = prepared(case)
    delta = prepared(changed(case, received={name: new - old for name, (new, old) in pairs.items()}))
    assert same(delta, plain, atol=1e-6)
    assert noted(delta, "taken as its change")
    for name, value in plain.buffers_received.items():
        assert torch.allclose(delta.buffers_received[name].float(), value.float(), atol=1e-6)
    mixed = {n: new - old if "running" not in n else new for n, (new, old) in pairs.items()}
    assert torch.allclose(
        prepared(changed(case, received=mixed)).buffers_received.get("1.running_mean", torch.zeros(1)),
        plain.buffers_received.get("1.running_mean", torch.zeros(1)),
        atol=1e-6,
    )


@pytest.mark.parametrize("sends", ["weights", "delta"])
@pytest.mark.parametrize("noise", [0.03, 0.3])
def test_noise_as_large_as_the_weights_does_not_blur_that(sends: str, noise: float) -> None:
    case = make_case(labels=(0, 1), classes=10)
    draw = torch.Generator().manual_seed(0)
    received = {
        name: value - (sent if sends == "delta" else 0) + noise * torch.randn(value.shape, generator=draw)
        for (name, value), sent in zip(case.update.received.items(), case.update.sent.values(), strict=True)
    }
    problem = prepared(changed(case, received=received))
    assert noted(problem, "taken as its change") == (sends == "delta")
    assert not noted(problem, "not clear")


def test_half_way_between_is_said_not_to_be_clear_unless_it_is_granted() -> None:
    case = make_case()
    half = {name: value / 2 for name, value in case.update.received.items()}
    assert noted(prepared(changed(case, received=half)), "not clear (coefficient 0.50")
    told = granting(changed(case, received=half), sends="delta")
    assert not noted(prepared(told), "not clear")
    assert noted(prepared(granting(case, sends="delta")), "resembles the model sent")


def test_a_gradient_is_taken_as_it_came() -> None:
    case = make_case(labels=(0, 1), grant_training=False)
    gradient = {
        name: (case.update.sent[name] - value) / TrainingDetails().learning_rate
        for name, value in case.update.received.items()
    }
    problem = prepared(granting(changed(case, received=gradient), sends="gradient"))
    assert all(torch.equal(problem.observed[name], value) for name, value in gradient.items())
    assert (problem.exact_scale, problem.gradient_scale, problem.is_gradient) == (True, 1.0, True)


def test_frozen_parameters_are_left_out_and_noted() -> None:
    case = make_case()
    received = {**case.update.received, "1.weight": case.update.sent["1.weight"].clone()}
    problem = prepared(changed(case, received=received))
    assert "1.weight" not in problem.observed
    assert "1.weight" in problem.constants
    assert noted(problem, "1.weight")


@pytest.mark.parametrize("train", [False, True])
def test_train_mode_shows_in_the_batch_norm_statistics(train: bool) -> None:
    details = TrainingDetails(batch_size=2, train_mode=train)
    case = make_case("norm", labels=(0, 1), training=details, grant_training=False)
    problem = prepared(case)
    norm = problem.model.get_submodule("1")
    assert norm.training is train
    assert noted(problem, "train mode" if train else "eval mode")
    assert not any(isinstance(m, nn.Dropout) and m.training for m in problem.model.modules())


def test_without_training_details_the_scale_is_unknown() -> None:
    case = make_case(labels=(0, 1), grant_training=False)
    problem = prepared(case)
    assert not problem.exact_scale
    assert problem.gradient_scale is None
    delta = case.update.delta()
    assert all(torch.equal(value, -delta[name]) for name, value in problem.observed.items())


def test_dropout_that_is_not_simulated_is_noted() -> None:
    def said(train: bool, net: str) -> bool:
        details = TrainingDetails(local_steps=2, batch_size=2, train_mode=train)
        return noted(prepared(make_case(net, labels=(0, 1, 1, 0), training=details)), "dropout is off")

    assert said(True, "norm")
    assert not said(False, "norm")
    assert not said(True, "norm-without-dropout")


def test_what_is_not_simulated_of_an_optimiser_is_noted() -> None:
    case = make_case(labels=(0, 1), metrics={})
    other = prepared(granting(case, training=TrainingDetails(optimizer="lion", local_steps=2)))
    assert (other.exact_scale, other.step_sizes, other.num_images) == (False, (2,), 2)
    assert noted(other, "'lion'")
    groups = prepared(granting(case, training=TrainingDetails(batch_size=2, uniform=False, fresh=False)))
    assert noted(groups, "groups of parameters")
    assert noted(groups, "simulated as fresh")
    with pytest.raises(ConfigError, match="learning_rate"):
        prepared(granting(case, training=TrainingDetails(learning_rates=(0.1, 0.0))))


def test_grants_that_contradict_are_refused() -> None:
    case = make_case()
    with pytest.raises(ConfigError, match="labels"):
        prepared(granting(case, labels=torch.tensor([2])))
    with pytest.raises(ConfigError, match=r"has 2 outputs, and 5 classes"):
        prepared(granting(case, num_classes=5))
    with pytest.raises(AttackFailed, match=r"does not run on images of shape \(1, 1, 9, 9\)"):
        prepared(granting(case, image_shape=(1, 9, 9)))
