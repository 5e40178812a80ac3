"""Base classes of the things that a user can choose by name and add in one file."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from torch import Tensor, nn

from fl_audit.core.registry import Unit
from fl_audit.core.training import TrainingHooks

Arrays = Mapping[str, np.ndarray]

ActsOn = Literal["update", "training", "server"]
"""What a defense acts on: the update before it leaves, the client's own training, or the server."""


@dataclass(frozen=True)
class ImageData:
    """A labelled image data set, whole in memory.

    Attributes:
        images: float32 ``(N, C, H, W)`` in [0, 1].
        labels: int64 ``(N,)`` in [0, len(classes)).
        classes: name of each class.
        title: how reports call it, with its provenance, e.g. ``"LFW subset (scikit-image)"``.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    title: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``."""
        _, channels, height, width = self.images.shape
        return channels, height, width


class Dataset(Unit, ABC):
    """A data set by name; `load` may take seconds, never touches the network unless asked to."""

    @abstractmethod
    def load(self) -> ImageData:
        """Load everything. Raises MissingDataError saying how to get what is missing."""


class Partitioner(Unit, ABC):
    """Splits a data set among clients."""

    @abstractmethod
    def split(self, labels: np.ndarray, clients: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Indices into ``labels`` for each client; disjoint; every client gets at least one."""


class ModelSpec(Unit, ABC):
    """An architecture by name."""

    @abstractmethod
    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """A module from ``(N, C, H, W)`` float32 in [0, 1] to logits ``(N, num_classes)``.

        Weights come from torch's global generator: the caller seeds it (`seeded_globals`).
        """


class Defense(TrainingHooks, Unit, ABC):
    """What protects a client: in its local training (`TrainingHooks`), or on what leaves it (`apply`).

    Knows nothing of Flower. One that acts on training cannot act on an app whose training is not ours.
    """

    acts_on: ClassVar[ActsOn] = "update"

    paper: ClassVar[str] = ""
    """Where it comes from."""

    excludes: ClassVar[frozenset[str]] = frozenset()
    """Names of defenses that it cannot be combined with: they would void what it promises."""

    def apply(self, sent: Arrays, received: Arrays, *, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The arrays that leave the client, given the model it was sent and the one it trained.

        Names, shapes and dtypes are those of ``received``, which leaves as it is by default. Must not change
        its arguments.
        """
        del sent, rng
        return dict(received)

    def privacy(self, *, rounds: int, delta: float) -> "PrivacySpent | None":
        """Epsilon after ``rounds`` participations at ``delta``, or None if there is no guarantee."""
        del rounds, delta
        return None


@dataclass(frozen=True)
class PrivacySpent:
    """A differential-privacy guarantee, e.g. client-level, over all rounds.

    Attributes:
        epsilon: privacy loss; infinity if there is none.
        delta: the probability it is stated at.
        unit: what is protected, e.g. ``"one client's whole update, local model"``.
        accountant: how it was computed.
    """

    epsilon: float
    delta: float
    unit: str
    accountant: str
