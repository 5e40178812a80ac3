"""Local training in plain terms, and the places in it where a defense may act. PyTorch only, knows no Flower.

A client trains in rounds of optimiser steps. Each hook of `TrainingHooks` takes a thing and returns a thing
of the same kind, so that several defenses are one after the other; every default hands back what it was
given.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from fl_audit.core.errors import ConfigError

if TYPE_CHECKING:
    from fl_audit.core.units import PrivacySpent

Sampling = Literal["epochs", "poisson"]
"""How a step gets its images: passes over all of them in a new order each, or each image by chance."""


@dataclass(frozen=True)
class Training:
    """How every client trains locally, by SGD.

    Attributes:
        learning_rate: step size.
        momentum: heavy-ball factor in [0, 1).
        weight_decay: L2 factor.
        batch_size: images in one step; a client with fewer images takes all it has. With Poisson sampling the
            expected number.
        local_steps: optimiser steps in one round, over reshuffled epochs; exactly one of this and
            ``local_epochs`` is set.
        local_epochs: passes over the client's images in one round.
        train_mode: whether the model is in train mode (batch norm by batch statistics, dropout on).
        sampling: ``epochs``, or ``poisson``: every step takes each image with probability ``batch_size``
            over the number of images, so that it may take none. A client then tells neither its loss nor how
            many images it drew.
    """

    learning_rate: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    batch_size: int = 4
    local_steps: int | None = 1
    local_epochs: int | None = None
    train_mode: bool = False
    sampling: Sampling = "epochs"

    def __post_init__(self) -> None:
        _check("learning_rate", self.learning_rate, self.learning_rate > 0, "over 0")
        _check("momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)")
        _check("weight_decay", self.weight_decay, self.weight_decay >= 0, "0 or more")
        _check("batch_size", self.batch_size, self.batch_size >= 1, "at least 1")
        if (self.local_steps is None) == (self.local_epochs is None):
            raise ConfigError("expected exactly one of local_steps and local_epochs")
        length = self.local_steps if self.local_epochs is None else self.local_epochs
        _check("local_steps or local_epochs", length, length is not None and length >= 1, "at least 1")

    def steps(self, images: int) -> int:
        """Optimiser steps in one round of a client with so many images."""
        if self.local_epochs is None:
            return self.local_steps or 0
        return self.local_epochs * math.ceil(images / min(self.batch_size, images))

    def rate(self, images: int) -> float:
        """The share of a client's images that a step takes, on average."""
        return min(self.batch_size, images) / images


@dataclass(frozen=True)
class Exposure:
    """How often a client's examples enter its training: what example-level privacy is accounted by.

    Attributes:
        rate: probability that a step takes a given example, in (0, 1].
        steps: optimiser steps in one round.
    """

    rate: float
    steps: int


@dataclass(frozen=True)
class Batch:
    """What one step trains on.

    Attributes:
        images: float32 ``(N, C, H, W)`` in [0, 1], as the model sees them.
        labels: classes int64 ``(N,)``, or probabilities float32 ``(N, K)``.
        originals: float32 ``(N, C, H, W)`` in [0, 1]: for each image the one of the client's own that a
            person would recognise in it. What is graded is whether these leak.
    """

    images: Tensor
    labels: Tensor
    originals: Tensor


@dataclass(frozen=True)
class Learner:
    """What a client trains with in one round.

    Attributes:
        model: called on the images; its parameters are those of the model that leaves.
        optimizer: takes the steps.
        training: the settings, after every defense's own.
        images: float32 ``(M, C, H, W)`` in [0, 1], all that the client trains on.
        labels: int64 ``(M,)``.
        num_classes: classes of the federation, K.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    training: Training
    images: Tensor
    labels: Tensor
    num_classes: int


class TrainingHooks:
    """Where a defense may act on local training, in the order of a round; `HookChain` chains several."""

    def architecture(self, model: nn.Module) -> nn.Module:
        """The architecture that everybody uses under this defense: clients, server and attacker.

        May change ``model`` itself. New weights come from torch's global generator, which the caller seeds.

        Raises:
            ConfigError: the defense cannot act on this architecture.
        """
        return model

    @property
    def reshapes(self) -> bool:
        """Whether the architecture is another one under this defense, so that an attacker must know it."""
        return type(self).architecture is not TrainingHooks.architecture

    @property
    def acts_on_training(self) -> bool:
        """Whether any hook does anything. Then it cannot protect an app whose training is not ours."""
        hooks = ("architecture", "training", "begin", "batch", "objective", "gradients")
        return any(getattr(type(self), name) is not getattr(TrainingHooks, name) for name in hooks)

    def training(self, training: Training) -> Training:
        """The settings that clients train by."""
        return training

    def begin(self, learner: Learner, *, rng: torch.Generator) -> Learner:
        """Called once a round, before the first step. ``rng`` is the client's own for this round, on the CPU.

        The optimiser that is returned may do more than the one it was given before it steps.
        """
        del rng
        return learner

    def batch(self, batch: Batch, learner: Learner, *, rng: torch.Generator) -> Batch:
        """What the step trains on instead of ``batch``. Must not change its arguments."""
        del learner, rng
        return batch

    def objective(self, loss: Tensor, learner: Learner, batch: Batch) -> Tensor:
        """What the step differentiates instead of ``loss``, a scalar, the mean over the batch."""
        del learner, batch
        return loss

    def gradients(
        self, gradients: Mapping[str, Tensor], learner: Learner, batch: Batch
    ) -> Mapping[str, Tensor]:
        """What the step takes for the loss's gradients, by name of the model's parameter.

        Where an optimiser of `begin` computes its own gradients, it disregards these.
        """
        del learner, batch
        return gradients

    def example_privacy(self, exposure: Exposure, *, rounds: int, delta: float) -> "PrivacySpent | None":
        """Epsilon of one training example after ``rounds`` participations, or None without a guarantee."""
        del exposure, rounds, delta
        return None


def _check(name: str, value: object, good: bool, expected: str) -> None:
    if not good:
        raise ConfigError(f"{name}: expected {expected}, got {value!r}")
