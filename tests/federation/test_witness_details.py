"""The witness sees how an optimiser was set, step by step, and leaves no hook behind."""

from typing import Any

import pytest
import torch

from fl_audit.core.types import GroundTruth
from fl_audit.federation.witness import Witness
from tests.federation.witness_cases import IMAGES, network, sgd, step


def test_hooks_are_removed_even_after_an_error() -> None:
    hooks = torch.nn.modules.module._global_forward_pre_hooks
    witness = Witness()
    with witness:
        assert len(hooks) == 1
    with pytest.raises(RuntimeError, match="shapes"), Witness():
        network()(torch.rand(2, 1, 9, 9))
    assert len(hooks) == 0


def test_a_model_that_raises_and_is_caught_does_not_confuse_the_depth() -> None:
    model = network()
    with Witness() as seen:
        with pytest.raises(RuntimeError):
            model(torch.rand(2, 1, 9, 9))
        step(model, sgd(model), slice(0, 4))
    truth = seen.truth()
    assert isinstance(truth, GroundTruth)
    assert torch.equal(truth.images, IMAGES[:4])


def test_the_settings_of_every_step_are_seen() -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, betas=(0.8, 0.9), eps=1e-6, amsgrad=True)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    with Witness() as seen:
        for start in (0, 4):
            step(model, optimizer, slice(start, start + 4))
            schedule.step()
    truth = seen.truth()
    assert isinstance(truth, GroundTruth)
    details = truth.training
    assert (details.optimizer, details.learning_rate, details.learning_rates) == ("adamw", 0.1, (0.1, 0.05))
    assert (details.betas, details.eps, details.amsgrad) == ((0.8, 0.9), 1e-6, True)
    assert details.weight_decay == 0.01
    assert details.uniform
    assert details.fresh


def test_nesterov_groups_and_state_of_earlier_rounds_are_seen() -> None:
    model = network()
    weights, biases = (
        [p for name, p in model.named_parameters() if name.endswith(end)] for end in ("weight", "bias")
    )
    groups: list[dict[str, Any]] = [{"params": weights}, {"params": biases, "weight_decay": 0.5}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    step(model, optimizer, slice(0, 4))
    with Witness() as seen:
        step(model, optimizer, slice(4, 8))
    truth = seen.truth()
    assert isinstance(truth, GroundTruth)
    assert (truth.training.nesterov, truth.training.uniform, truth.training.fresh) == (True, False, False)
    assert truth.training.learning_rates is None
