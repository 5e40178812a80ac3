"""What a federation is made of and what comes out of it. Plain data, needs no Flower."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import Tensor

from fl_audit.core.errors import ConfigError
from fl_audit.core.training import Training
from fl_audit.core.units import ImageData, ModelSpec


class Splits(Protocol):
    """Indices into the data, int64 ``(n,)`` each; `fl_audit.data.client_splits` makes them."""

    @property
    def train(self) -> tuple[Tensor, ...]:
        """For each client what it trains on."""

    @property
    def test(self) -> tuple[Tensor, ...]:
        """For each client what it tests on; may be empty."""

    @property
    def held_out(self) -> Tensor:
        """What no client holds; utility is measured on it."""


@dataclass(frozen=True)
class FederationSpec:
    """One federation, apart from the defense that runs in it.

    Attributes:
        data: all images; clients hold parts of it by ``splits``.
        splits: who holds which images; one train and test part per client.
        model: the architecture that is trained.
        training: how clients train.
        engine: ``local`` (one process, reproducible to the bit) or ``ray`` (Flower's simulation engine).
        rounds: rounds of training.
        clients: number of clients.
        fraction: share of the clients that train in a round, in (0, 1]; at least one does.
        strategy: Flower strategy, see `create_strategy`.
        images_per_client: a client trains on its first so many images; None means all.
        seed: run seed.
        ray_address: address of a Ray cluster; None starts a local one.
        client_cpus: CPUs of one client (engine ray).
        client_gpus: GPUs of one client, may be a fraction (engine ray).
        device: where clients train and the server evaluates, e.g. ``cpu`` or ``cuda``.
        timeout: seconds that the server waits for the replies of a round.
    """

    data: ImageData
    splits: Splits
    model: ModelSpec
    training: Training = field(default_factory=Training)
    engine: Literal["local", "ray"] = "local"
    rounds: int = 3
    clients: int = 4
    fraction: float = 1.0
    strategy: str = "fedavg"
    images_per_client: int | None = None
    seed: int = 0
    ray_address: str | None = None
    client_cpus: float = 1.0
    client_gpus: float = 0.0
    device: str = "cpu"
    timeout: float = 3600.0

    def __post_init__(self) -> None:
        _check("engine", self.engine, self.engine in ("local", "ray"), "local or ray")
        _check("rounds", self.rounds, self.rounds >= 1, "at least 1")
        _check("clients", self.clients, self.clients >= 1, "at least 1")
        _check("fraction", self.fraction, 0 < self.fraction <= 1, "in (0, 1]")
        _check("client_cpus", self.client_cpus, self.client_cpus > 0, "over 0")
        _check("client_gpus", self.client_gpus, self.client_gpus >= 0, "0 or more")
        _check("timeout", self.timeout, self.timeout > 0, "over 0")
        limit = self.images_per_client
        _check("images_per_client", limit, limit is None or limit >= 1, "at least 1")
        for name, parts in (("train", self.splits.train), ("test", self.splits.test)):
            if len(parts) != self.clients:
                raise ConfigError(f"splits.{name}: {len(parts)} parts for {self.clients} clients")

    def train_indices(self, client: int) -> Tensor:
        """Positions in ``data`` of what ``client`` trains on, int64 ``(n,)``."""
        return self.splits.train[client][: self.images_per_client]


@dataclass(frozen=True)
class RoundUtility:
    """How good the global model was after a round (round 0: before training).

    Attributes:
        round: server round.
        accuracy: share of the held-out images classified right; None if there are none.
        loss: mean cross-entropy on them; None if there are none or it is not finite.
        client_accuracy: accuracy on each client's own test images, by client, where it answered.
    """

    round: int
    accuracy: float | None
    loss: float | None
    client_accuracy: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ClientProblem:
    """Something that went wrong with one client in one round."""

    round: int
    client: int
    reason: str


@dataclass(frozen=True)
class FederationResult:
    """What a federation gives besides its captures and truth on disk.

    Attributes:
        rounds: utility before training and after each round.
        failures: clients whose update was no use (error, missing or extra arrays, NaN), with the reason.
        participation: how many times each client's update left it; what differential privacy composes over.
        truth_unavailable: captures whose truth could not be recorded, with the reason.
        weights: final global model, name to tensor.
    """

    rounds: tuple[RoundUtility, ...]
    failures: tuple[ClientProblem, ...]
    participation: Mapping[int, int]
    truth_unavailable: tuple[ClientProblem, ...]
    weights: Mapping[str, Tensor]


def _check(name: str, value: object, good: bool, expected: str) -> None:
    if not good:
        raise ConfigError(f"{name}: expected {expected}, got {value!r}")
