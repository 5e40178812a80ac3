"""Which clipping of gradients is told: that of all of a step together, by the Euclidean norm."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import clip_grad

from fl_audit.core.types import GroundTruth, TrainingDetails
from fl_audit.federation._clipping import clipping_told
from fl_audit.federation.witness import Witness, report_clipping
from tests.federation.witness_cases import IMAGES, LABELS, network, sgd

Clip = Callable[[nn.Module, int], object]

HALF: Any = torch.tensor(0.5)
"""PyTorch takes it, whatever its types say."""


def trained(clip: Clip) -> TrainingDetails:
    """Two steps; ``clip`` is called with the model and the number of the step before each."""
    model = network()
    optimizer = sgd(model)
    with clipping_told(report_clipping), Witness() as witness:
        for number in range(2):
            optimizer.zero_grad()
            torch.autograd.backward(functional.cross_entropy(model(IMAGES[:4]), LABELS[:4]))
            clip(model, number)
            optimizer.step()
    truth = witness.truth()
    assert isinstance(truth, GroundTruth)
    return truth.training


def first(model: nn.Module) -> Tensor:
    return next(iter(model.parameters()))


@pytest.mark.parametrize(
    ("clip", "norm", "uniform"),
    [
        (lambda model, number: nn.utils.clip_grad_norm_(model.parameters(), 0.5), 0.5, True),
        (lambda model, number: clip_grad.clip_grad_norm_(list(model.parameters()), max_norm=2), 2.0, True),
        (lambda model, number: nn.utils.clip_grad_norm_(model.parameters(), HALF), 0.5, True),
        (lambda model, number: nn.utils.clip_grad_norm_(model.parameters(), 1.0 + number), 1.0, False),
        (lambda model, number: nn.utils.clip_grad_norm_(first(model), 0.5), None, True),
        (lambda model, number: nn.utils.clip_grad_norm_(model.parameters(), 0.5, torch.inf), None, True),
        (lambda model, number: nn.utils.clip_grad_norm_(model.parameters(), torch.inf), None, True),
        (lambda model, number: nn.utils.clip_grad_value_(model.parameters(), 0.5), None, True),
    ],
    ids=["all", "a list", "a tensor", "another norm each", "some", "another kind", "no limit", "by value"],
)
def test_what_clips_all_gradients_of_a_step_together_is_told(
    clip: Clip, norm: float | None, uniform: bool
) -> None:
    details = trained(clip)
    assert details.clip_norm == norm
    assert details.uniform is uniform


def test_a_clip_inside_a_closure_is_that_of_its_step() -> None:
    model = network()
    optimizer = sgd(model)
    with clipping_told(report_clipping), Witness() as witness:
        for norm in (0.5, None, 0.5):

            def closure(norm: float | None = norm) -> float:
                optimizer.zero_grad()
                loss = functional.cross_entropy(model(IMAGES[:4]), LABELS[:4])
                loss.backward()  # type: ignore[no-untyped-call]
                if norm is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), norm)
                return float(loss.detach())

            optimizer.step(closure)
    assert [step.settings.clip_norm for step in witness.steps] == [0.5, None, 0.5]


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_clip_before_all_of_the_gradient_is_there_is_another(by_hand: bool) -> None:
    """After each part of an accumulated gradient, or of each example's, as in DP-SGD by hand."""
    model = network()
    optimizer = sgd(model)
    with clipping_told(report_clipping), Witness() as witness:
        kept = []
        for row in range(3):
            if by_hand:
                optimizer.zero_grad()
            torch.autograd.backward(functional.cross_entropy(model(IMAGES[[row]]), LABELS[[row]]))
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            kept.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        for place, parameter in enumerate(model.parameters()):
            parameter.grad = sum((each[place] for each in kept), torch.zeros_like(parameter))
        optimizer.step()
    assert [step.settings.clip_norm for step in witness.steps] == [None]
    assert len(witness.steps[0].calls) == 3


def test_the_function_does_what_it_did_and_is_put_back() -> None:
    plain = nn.utils.clip_grad_norm_
    mine, theirs = nn.Parameter(torch.zeros(5)), nn.Parameter(torch.zeros(5))
    mine.grad, theirs.grad = torch.arange(5.0), torch.arange(5.0)
    told: list[float] = []
    with clipping_told(lambda parameters, norm: told.append(norm)):
        assert nn.utils.clip_grad_norm_ is not plain
        length = nn.utils.clip_grad_norm_((p for p in [mine]), 0.1, error_if_nonfinite=True)
    assert nn.utils.clip_grad_norm_ is plain
    assert clip_grad.clip_grad_norm_ is plain
    assert torch.equal(length, plain([theirs], 0.1))
    assert torch.equal(mine.grad, theirs.grad)
    assert told == [0.1]
