"""Base classes of the things that a user can choose by name and add in one file."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

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


State = MutableMapping[str, np.ndarray]
"""What a defense remembers of one client from round to round, e.g. what it held back; empty at first."""


class Defense(TrainingHooks, Unit):
    """What protects a client: in its local training, on what leaves it, or by what the server does with it.

    It works on arrays and knows nothing of Flower, but for `wrap_strategy`, whose argument is a Flower
    strategy. A stack (``clip:1+prune:0.9``) chains every method of its members, left to right.

    Attributes:
        acts_on: ``update``: `apply` changes what a client sends. ``training``: the hooks of `TrainingHooks`
            change how it trains, which cannot be done to an app whose training is not ours. ``server``: the
            server does something with what it got, or gets less; `apply` then changes an update only as far
            as the client's part goes.
        server_sees: for ``server``: what of an update the server still sees, in a sentence or two.
        paper: authors, year, title, venue, link.
        excludes: names of defenses that it cannot be combined with: they would void what it promises.
    """

    acts_on: ClassVar[ActsOn] = "update"
    server_sees: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    excludes: ClassVar[frozenset[str]] = frozenset()

    def apply(
        self, sent: Arrays, received: Arrays, *, rng: np.random.Generator, state: State
    ) -> dict[str, np.ndarray]:
        """The arrays that leave the client, given the model it was sent and the one it trained.

        Names, shapes and dtypes are those of ``received``. Must not change its arguments but for ``state``,
        whose arrays it may replace and must not change in place: where it raises, nothing leaves and the
        state stays as it was.
        """
        del sent, rng, state
        return dict(received)

    def wrap_strategy(self, strategy: Any, *, clients: int, sampled: int) -> Any:
        """The Flower strategy that the server runs in place of ``strategy``, or ``strategy`` itself.

        Args:
            strategy: a `flwr.serverapp.strategy.Strategy`.
            clients: clients in the federation.
            sampled: clients that train in a round.

        Raises:
            ConfigError: this defense does not go with that strategy.
        """
        del clients, sampled
        return strategy

    @property
    def acts_at_server(self) -> bool:
        """Whether the server must take part in it."""
        return self.acts_on == "server"

    @property
    def changes_update(self) -> bool:
        """Whether `apply` does anything. Where it does not, what a client sends may be of any form."""
        return self.acts_on == "update"

    @property
    def aggregates(self) -> bool:
        """Whether the server sees the mean of a round's updates and no single one (secure aggregation)."""
        return False

    @property
    def equal_weights(self) -> bool:
        """Whether all clients count the same in the server's mean; else by ``num-examples``."""
        return False

    @property
    def sees_each(self) -> bool:
        """Whether the server needs each client's update: then its updates cannot be securely aggregated."""
        return False

    def describe(self) -> str:
        """What it does, in a line."""
        return self.summary()

    def sees(self) -> str:
        """What the server still sees; empty where that is the update as it left the client."""
        return self.server_sees

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
        unit: what is protected, and against whom, e.g. ``"one client's whole data, against the server"``.
        accountant: how it was computed.
        against_server: whether it holds against the server; else only against those who see what the server
            releases.
    """

    epsilon: float
    delta: float
    unit: str
    accountant: str
    against_server: bool = True
