"""The problem that an attack solves, as data: what the attacker has, and how to simulate the client."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fl_audit.attacks._arrays import Named
from fl_audit.attacks.client_optimisers import total_rate
from fl_audit.attacks.clock import Clock
from fl_audit.attacks.losses import Loss, mean_cross_entropy
from fl_audit.attacks.plain_ops import plain_ops
from fl_audit.attacks.unroll import Unrolling
from fl_audit.core.progress import Progress
from fl_audit.core.types import TrainingDetails


@dataclass(frozen=True)
class Problem:
    """One update, ready to be attacked. Everything is on ``device``.

    Attributes:
        model: copy of the architecture with the weights sent; dropout off, batch norm as the client ran it.
        parameters: the trained parameters as sent, by name, detached float32.
        constants: the other entries of the state dict (buffers, frozen parameters).
        buffers_sent: the buffers that travelled both ways, as sent, by name: batch-norm statistics above all.
        buffers_received: the same as they came back.
        batch_norm: mean and variance of the client's data by module name, if granted.
        surrogate: images like the client's, ``(M, C, H, W)`` in [0, 1], if granted.
        observed: what to match, by parameter name: the client's gradient where the update shows it to scale,
            which is one step of SGD with known details, or a gradient sent as such, unless it was clipped;
            else ``-delta``, over one step of unknown details the gradient times an unknown positive factor.
        exact_scale: whether a simulation by `simulation.simulate` has the scale of ``observed``.
        step_sizes: images used in each local step to be simulated, U in all.
        training: how the client trained, if granted and simulated.
        labels: granted labels, int64 ``(N,)``, in order of first use, or None.
        num_images: how many images to reconstruct, N.
        image_shape: ``(C, H, W)``.
        num_classes: number of classes, or None.
        generator: the attack's own source of randomness, on the CPU so that devices agree.
        device: where to compute.
        progress: the display.
        notes: what was assumed; attacks may add to it.
        clock: how long the attack may go on; clients attacked together share it.
        uses: int64 ``(U,)``, the image of each use, where images are used in several passes; None: each is
            used once, in order.
        proximal: weight of the squared distance to the model sent in the client's loss (FedProx).
        loss: what the client minimises.
        plain: whether the model runs with `plain_ops.plain_ops`.
        kinked: whether the model has layers whose second derivatives vanish or jump.
        max_pooled: whether it pools by maximum.
        checkpointed: whether local steps are simulated in bounded memory; see `unroll`.
        forward_mode: whether the model can be differentiated in forward mode there.
        left_out: why fewer images are reconstructed than were used; None: all are.
        cohort: the clients, where ``observed`` is their weighted mean and no single gradient of all images:
            those of the first come first. ``step_sizes`` then lists the steps of each one's first pass.
        found: images ``(N, C, H, W)`` in [0, 1] that an earlier search found, from which another may begin.
    """

    model: nn.Module
    parameters: Named
    constants: Named
    buffers_sent: Named
    buffers_received: Named
    batch_norm: Mapping[str, tuple[Tensor, Tensor]] | None
    surrogate: Tensor | None
    observed: Named
    exact_scale: bool
    step_sizes: tuple[int, ...]
    training: TrainingDetails | None
    labels: Tensor | None
    num_images: int
    image_shape: tuple[int, int, int]
    num_classes: int | None
    generator: torch.Generator
    device: torch.device
    progress: Progress
    notes: list[str] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)
    uses: Tensor | None = None
    proximal: float = 0.0
    loss: Loss = mean_cross_entropy
    plain: bool = False
    kinked: bool = False
    max_pooled: bool = False
    checkpointed: bool = False
    forward_mode: bool = True
    left_out: str | None = None
    cohort: tuple["Member", ...] = ()
    found: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the images to reconstruct, ``(N, C, H, W)``."""
        return (self.num_images, *self.image_shape)

    @property
    def is_gradient(self) -> bool:
        """Whether ``observed`` is one gradient of all images, at least up to a positive factor."""
        one = len(self.step_sizes) == 1 and not self.cohort
        return one and (self.training is None or self.training.optimizer == "sgd")

    def logits(self, parameters: Named, images: Tensor) -> Tensor:
        """The model's output at ``parameters``."""
        with plain_ops() if self.plain else nullcontext():
            made: Tensor = functional_call(self.model, {**self.constants, **parameters}, (images,))
        return made

    def loss_at(self, parameters: Named, images: Tensor, labels: Tensor) -> Tensor:
        """The client's loss at ``parameters``, less FedProx's distance."""
        return self.loss(self.logits(parameters, images), labels)

    def unrolling(self, *, functional: bool = False) -> Unrolling:
        """How to simulate several local steps; see `Unrolling`.

        Raises:
            ValueError: the training details are unknown.
        """
        if self.training is None:
            raise ValueError("local steps cannot be simulated without the training details")
        return Unrolling(
            start=self.parameters,
            loss=self.loss_at,
            details=self.training,
            sizes=self.step_sizes,
            proximal=self.proximal,
            checkpointed=self.checkpointed,
            forward_mode=self.forward_mode,
            functional=functional,
        )

    @property
    def gradient_scale(self) -> float | None:
        """Factor on the clients' mean gradient over all steps that ``observed`` has.

        None if it is unknown, as where gradients were clipped, or if the optimiser does not add them up.
        """
        if self.is_gradient:
            return 1.0 if self.exact_scale else None
        trainings = [member.problem.training for member in self._members]
        clipped = any(training is not None and training.clip_norm is not None for training in trainings)
        return None if clipped else self.total_rate

    @property
    def total_rate(self) -> float | None:
        """How far the clients' mean moves for a gradient, as their optimiser is given it, of 1 in each step.

        None if it is unknown, or if the optimiser does not add up gradients.
        """
        rates = [member.total_rate() for member in self._members]
        known = [rate for rate in rates if rate is not None]
        return sum(known) if len(known) == len(rates) else None

    @property
    def _members(self) -> tuple["Member", ...]:
        """The clients of the cohort, or this one alone."""
        return self.cohort or (Member(1.0, self),)

    @property
    def first_pass(self) -> tuple[int, ...]:
        """Images in each of the steps that use the N images for the first time."""
        ends = accumulate(self.step_sizes)
        return self.step_sizes[: sum(end <= self.num_images for end in ends)]


@dataclass(frozen=True)
class Member:
    """A client in an aggregate: its share of the mean, and its local training as a problem of its own."""

    weight: float
    problem: Problem

    def total_rate(self) -> float | None:
        """Factor on its mean gradient in the aggregate; None if its optimiser adds up no gradients."""
        training = self.problem.training
        if training is None or training.optimizer != "sgd":
            return None
        return self.weight * total_rate(training, len(self.problem.step_sizes))
