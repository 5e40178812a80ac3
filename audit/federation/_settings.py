"""What an optimiser's parameter groups set, read at a step: how a client trained, as `TrainingDetails`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fl_audit.core.types import TrainingDetails

_NAMES = (
    *("lr", "momentum", "dampening", "nesterov", "weight_decay"),
    *("betas", "eps", "amsgrad", "maximize", "decoupled_weight_decay"),
)
"""Settings that change what a step does."""


@dataclass(frozen=True)
class Settings:
    """An optimiser at one step.

    Attributes:
        optimizer: class name, lower case.
        groups: settings of each parameter group.
        fresh: whether it has no state yet.
        clip_norm: the norm at which all gradients of the step were clipped together; None: they were not.
    """

    optimizer: str
    groups: tuple[dict[str, Any], ...]
    fresh: bool
    clip_norm: float | None = None


def read_settings(optimizer: torch.optim.Optimizer) -> Settings:
    """Copy what ``optimizer`` is set to just before a step."""
    groups = tuple(
        {name: _plain(value) for name, value in group.items() if name in _NAMES}
        for group in optimizer.param_groups
    )
    name = type(optimizer).__name__.lower()
    if name == "adam" and groups[0].get("decoupled_weight_decay"):
        name = "adamw"
    if groups[0].get("maximize"):
        name = f"{name} with maximize"
    return Settings(name, groups, not optimizer.state)


def training_details(steps: Sequence[Settings], *, batch_size: int, train_mode: bool) -> TrainingDetails:
    """The details of a training of these steps; batch size and mode are those of the first."""
    first = steps[0].groups[0]
    rates = tuple(_number(step.groups[0], "lr") for step in steps)
    same_rate = all(group.get("lr") == step.groups[0].get("lr") for step in steps for group in step.groups)
    rest = [{**group, "lr": None, "clip": step.clip_norm} for step in steps for group in step.groups]
    betas = first.get("betas", TrainingDetails.betas)
    return TrainingDetails(
        optimizer=steps[0].optimizer,
        learning_rate=rates[0],
        momentum=_number(first, "momentum"),
        weight_decay=_number(first, "weight_decay"),
        local_steps=len(steps),
        batch_size=batch_size,
        train_mode=train_mode,
        dampening=_number(first, "dampening"),
        nesterov=bool(first.get("nesterov", False)),
        betas=(float(betas[0]), float(betas[1])),
        eps=_number(first, "eps", TrainingDetails.eps),
        amsgrad=bool(first.get("amsgrad", False)),
        learning_rates=rates if len(set(rates)) > 1 else None,
        uniform=same_rate and rest.count(rest[0]) == len(rest) and len({s.optimizer for s in steps}) == 1,
        fresh=steps[0].fresh,
        clip_norm=steps[0].clip_norm,
    )


def _plain(value: Any) -> Any:
    """A setting as it is now; a tensor, which an optimiser may change in place, as a number."""
    if isinstance(value, Tensor):
        return value.tolist()
    return tuple(_plain(part) for part in value) if isinstance(value, list | tuple) else value


def _number(group: dict[str, Any], name: str, default: float = 0.0) -> float:
    value = group.get(name, default)
    return float(value) if isinstance(value, int | float) else default
