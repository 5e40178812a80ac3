"""What the threat model grants an attacker besides the update that the server sees."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from fl_audit.core.errors import KnowledgeError
from fl_audit.core.types import TrainingDetails

ThreatLevel = Literal["A", "B", "C", "D", "E"]

THREAT_LEVELS: dict[ThreatLevel, str] = {
    "A": "eavesdropper: sees the updates and nothing else",
    "B": "informed: also knows architecture, loss, image shape and class count",
    "C": "parameter-aware: also knows learning rate, local steps, batch size, optimiser and train mode",
    "D": "data-enhanced: also holds surrogate data",
    "E": "statistically informed: also knows statistics of the client's data, e.g. batch-norm",
}
"""Taxonomy of Carletti et al., "SoK: Gradient Inversion Attacks in Federated Learning", USENIX
Security 2025; each level includes the ones before it."""

Sends = Literal["weights", "delta", "gradient"]
"""What clients send back: their whole model, its change, or a gradient."""


@dataclass(frozen=True)
class Share:
    """A client's part in an aggregate, as far as the attacker knows.

    Attributes:
        weight: its share of the mean; all add up to 1.
        num_examples: different images that it says it used.
        training: how it trained, if granted.
        labels: its labels in order of use, int64 ``(U,)``, if granted.
    """

    weight: float
    num_examples: int | None = None
    training: TrainingDetails | None = None
    labels: Tensor | None = None


@dataclass(frozen=True)
class Knowledge:
    """What the threat model grants the attacker besides the update. None means not granted.

    Attributes:
        level: level of the SoK taxonomy, see `THREAT_LEVELS`.
        model: the architecture with the *sent* weights not yet loaded; inputs are ``(N, C, H, W)``
            float32 in [0, 1] (normalisation is a layer of the model).
        loss: name of the loss, e.g. ``"cross-entropy"``.
        num_classes: number of classes.
        image_shape: ``(C, H, W)``.
        training: how the client trained.
        labels: true labels in order of use, int64 ``(N,)``; granted apart from the level.
        batch_norm: batch-norm statistics of the client's data by module name (level E).
        surrogate: images of a like distribution, float32 ``(M, C, H, W)`` in [0, 1] (level D).
        sends: what clients send back; None: told from the magnitudes. No level withholds it.
        cohort: the clients whose weighted mean the update is, where the server sees nothing else (secure
            aggregation); ``training`` and ``labels`` are then theirs, all together. Empty: one client.

            The update's ``received`` is ``sum(weight * reply)`` over the clients, weights or differences, and
            the weights add up to 1: a sum must have been divided. ``num_examples``, ``training`` and
            ``labels`` of each `Share` are what counts; besides, ``labels`` lists all labels, those of the
            first share first, and ``training`` is set where every share has one, since attacks ask whether
            these two are granted. What is reconstructed are the images of all clients, in the order of the
            shares as far as the attack can tell them apart.
    """

    level: ThreatLevel = "B"
    model: nn.Module | None = None
    loss: str | None = None
    num_classes: int | None = None
    image_shape: tuple[int, int, int] | None = None
    training: TrainingDetails | None = None
    labels: Tensor | None = None
    batch_norm: Mapping[str, tuple[Tensor, Tensor]] | None = None
    surrogate: Tensor | None = None
    sends: Sends | None = None
    cohort: tuple[Share, ...] = ()

    def granted(self) -> frozenset[str]:
        """Names of the fields that are granted."""
        names = (
            "model",
            "loss",
            "num_classes",
            "image_shape",
            "training",
            "labels",
            "batch_norm",
            "surrogate",
        )
        return frozenset(name for name in names if getattr(self, name) is not None)

    def require(self, needs: frozenset[str], who: str) -> None:
        """Raise `KnowledgeError` naming what ``who`` needs and the threat model does not grant."""
        missing = sorted(needs - self.granted())
        if missing:
            raise KnowledgeError(
                f"attack {who!r} needs {', '.join(missing)}, which threat level {self.level} "
                f"({THREAT_LEVELS[self.level]}) does not grant here. Grant it (threat.level, "
                "threat.labels) or choose another attack"
            )
