"""What the server sees (`Update`), what a client really did (`GroundTruth`) and what an attack gives back.

Only the grader opens the truth. What the attacker is granted besides the update: `fl_audit.core.knowledge`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor

Scalar = bool | int | float | str

EVERYONE = -1
"""Client of a capture that is the mean of a round's updates (secure aggregation)."""


@dataclass(frozen=True)
class CaptureKey:
    """Which client's update, of which round, under which defense.

    Attributes:
        defense: folder-safe name of the defense, from the configuration, never from a client.
        round: server round, from 1.
        client: partition id, from 0; `EVERYONE` for the mean of the round's updates.
    """

    defense: str
    round: int
    client: int

    @property
    def stem(self) -> str:
        """File stem, e.g. ``r003-c02``, or ``r003-all``."""
        who = "all" if self.client == EVERYONE else f"c{self.client:02d}"
        return f"r{self.round:03d}-{who}"

    def __str__(self) -> str:
        return f"{self.defense} {self.stem}"


@dataclass(frozen=True)
class Contribution:
    """One client's part in an aggregate, as the server sees it.

    Attributes:
        client: partition id.
        weight: its share of the mean; all add up to 1.
        metrics: scalars of its reply, which travel in clear also under secure aggregation.
    """

    client: int
    weight: float
    metrics: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True)
class Update:
    """What the server sent to one client in one round and what came back: all that the server sees.

    Attributes:
        key: defense, round, client.
        node_id: Flower's node id.
        sent: global model as sent, name to tensor, in the order of the state dict.
        received: arrays as they left the client, after its defense. Empty if the client failed.
        config: scalars of the train config that travelled with the model.
        metrics: scalars of the reply, in clear, e.g. ``num-examples``.
        error: why there is no usable reply, else None.
        cohort: the clients whose weighted mean ``received`` is, where the server sees nothing else of them;
            empty for one client's update.
    """

    key: CaptureKey
    node_id: int
    sent: Mapping[str, Tensor]
    received: Mapping[str, Tensor]
    config: Mapping[str, Scalar] = field(default_factory=dict)
    metrics: Mapping[str, Scalar] = field(default_factory=dict)
    error: str | None = None
    cohort: tuple[Contribution, ...] = ()

    @property
    def num_examples(self) -> int | None:
        """What the client says it trained on, or all clients together; None if it says nothing usable."""
        return num_examples(self.metrics)

    def in_clear(self) -> dict[int, Mapping[str, Scalar]]:
        """By client, the scalars of its reply."""
        if self.cohort:
            return {part.client: part.metrics for part in self.cohort}
        return {self.key.client: self.metrics}

    def problem(self) -> str | None:
        """Why this update cannot be attacked (client error, missing or extra arrays, shapes, NaN, zero)."""
        if self.error is not None:
            return f"the client failed: {self.error}"
        missing = [name for name in self.sent if name not in self.received]
        extra = [name for name in self.received if name not in self.sent]
        if missing or extra:
            return f"arrays differ from what was sent: missing {missing[:5]}, extra {extra[:5]}"
        moved = False
        for name, sent in self.sent.items():
            got = self.received[name]
            if got.shape != sent.shape:
                return f"array {name!r} has shape {tuple(got.shape)}, expected {tuple(sent.shape)}"
            if got.dtype.is_floating_point and not _finite(got):
                kind = "NaN" if bool(torch.isnan(got).any()) else "inf"
                return f"array {name!r} contains {kind}"
            moved = moved or not torch.equal(got, sent.to(got.dtype))
        return None if moved else "the update is zero: the client returned the model as it was sent"

    def delta(self) -> dict[str, Tensor]:
        """``received - sent`` for floating-point arrays, in the order sent; call `problem` first."""
        return {
            name: self.received[name].float() - sent.float()
            for name, sent in self.sent.items()
            if sent.dtype.is_floating_point
        }


def _finite(values: Tensor) -> bool:
    """Whether there is no NaN or inf. A finite sum says so fastest, but finite values may overflow."""
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())


def num_examples(metrics: Mapping[str, Scalar]) -> int | None:
    """What a client that sent ``metrics`` says it trained on; None if it says nothing usable."""
    value = metrics.get("num-examples")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 < value < 2**31 and value == int(value) else None


@dataclass(frozen=True)
class TrainingDetails:
    """How a client trained locally; the fields of the optimiser mean what they mean in `torch.optim`.

    Attributes:
        optimizer: class name, lower case, e.g. ``"sgd"``.
        learning_rate: step size of the first step.
        momentum: heavy-ball factor in [0, 1).
        weight_decay: L2 factor; decoupled from the gradient for ``"adamw"``.
        local_steps: optimiser steps in one round.
        batch_size: images in one step.
        train_mode: whether the model ran in train mode (batch norm by batch statistics, dropout on).
        dampening: share of the gradient that SGD's momentum buffer leaves out.
        nesterov: whether SGD looks ahead.
        betas: decay of Adam's first and second moment.
        eps: what Adam adds to the root of the second moment.
        amsgrad: whether Adam divides by the largest second moment so far.
        learning_rates: step size of every step, where a schedule changed it; None: that of the first.
        uniform: whether all parameter groups and, but for the learning rate, all steps had these values.
        fresh: whether the optimiser began the round without state of earlier rounds.
        clip_norm: Euclidean norm at which each step's whole gradient was clipped first; None: it was not.
    """

    optimizer: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    local_steps: int = 1
    batch_size: int = 1
    train_mode: bool = False
    dampening: float = 0.0
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    amsgrad: bool = False
    learning_rates: tuple[float, ...] | None = None
    uniform: bool = True
    fresh: bool = True
    clip_norm: float | None = None


@dataclass(frozen=True)
class GroundTruth:
    """What a client really trained on in one round. Sealed: only the grader opens it.

    Attributes:
        images: float32 ``(N, C, H, W)`` in [0, 1], in order of use (local step by local step).
        labels: int64 ``(N,)``.
        steps: int64 ``(N,)``, the local step that used the image, from 0.
        indices: int64 ``(N,)``, position in the client's data; -1 where unknown. An image used in
            several epochs appears once per use.
        training: how the client trained, as seen in its process.
    """

    images: Tensor
    labels: Tensor
    steps: Tensor
    indices: Tensor
    training: TrainingDetails

    def unique(self) -> Self:
        """Each different image once, at its first use: what there is to leak."""
        seen: dict[bytes, int] = {}
        for row, image in enumerate(self.images):
            seen.setdefault(image.numpy().tobytes(), row)
        rows = torch.tensor(sorted(seen.values()), dtype=torch.int64)
        return replace(
            self,
            images=self.images[rows],
            labels=self.labels[rows],
            steps=self.steps[rows],
            indices=self.indices[rows],
        )


@dataclass(frozen=True)
class Reconstruction:
    """What one attack made of one update.

    Attributes:
        status: ``"done"``, or ``"failed"``: then ``reason`` says why and there are no images. A failed
            attack says nothing about the client's safety.
        images: float32 ``(N, C, H, W)`` in [0, 1]; the attacker's own choice among its restarts.
        labels: the labels that the attacker worked with, int64 ``(N,)``.
        labels_inferred: whether the attacker inferred them (True) or was given them (False).
        objective: the attacker's final objective; lower fits the update better. NaN if it has none.
        iterations: optimisation steps spent, over all restarts.
        seconds: wall time; kept out of every file that must be equal for equal seeds.
        notes: what the attacker assumed or noticed, one sentence each.
        reason: why it failed.
        unattempted: why some of the images, or where it failed all of them, were not attempted.
    """

    status: Literal["done", "failed"]
    images: Tensor | None = None
    labels: Tensor | None = None
    labels_inferred: bool = False
    objective: float = float("nan")
    iterations: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    reason: str | None = None
    unattempted: str | None = None

    def facts(self) -> dict[str, Any]:
        """Everything but the images and the time, JSON-ready."""
        return {
            "status": self.status,
            "reason": self.reason,
            "unattempted": self.unattempted,
            "labels": None if self.labels is None else self.labels.tolist(),
            "labels_inferred": self.labels_inferred,
            "objective": self.objective if math.isfinite(self.objective) else None,
            "iterations": self.iterations,
            "notes": list(self.notes),
        }
