"""A net with batch norm in several places, and what its layers see."""

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from fl_audit.attacks.problem import Problem, prepare
from fl_audit.core.progress import Progress
from fl_audit.core.types import TrainingDetails
from tests.attacks.cases import CPU, Case


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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


def without_buffers(case: Case) -> Case:
    assert case.knowledge.model is not None
    names = [name for name, _ in case.knowledge.model.named_parameters()]
    sent, received = ({n: arrays[n] for n in names} for arrays in (case.update.sent, case.update.received))
    return replace(case, update=replace(case.update, sent=sent, received=received))
