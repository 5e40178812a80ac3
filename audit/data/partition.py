"""How the images are shared out among the clients."""

import numpy as np
from pydantic import Field

from fl_audit.core.errors import ConfigError
from fl_audit.core.units import Partitioner
from fl_audit.data._registry import partitioners


@partitioners.register("iid")
class Iid(Partitioner):
    """Shuffled and dealt out evenly: every client holds the same mixture of classes."""

    def split(self, labels: np.ndarray, clients: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Parts whose sizes differ by one at most."""
        _check(labels, clients)
        return [np.sort(part) for part in np.array_split(rng.permutation(len(labels)), clients)]


@partitioners.register("dirichlet")
class Dirichlet(Partitioner):
    """Label skew: each class is shared out in proportions drawn from Dirichlet(alpha).

    Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
    Classification", 2019, https://arxiv.org/abs/1909.06335. We draw over clients for each class, as most
    later work does, not over classes for each client. A client left empty gets one image of the fullest.
    """

    alpha: float = Field(gt=0, le=1e6, description="concentration: 0.1 strong skew, 100 almost even")

    def split(self, labels: np.ndarray, clients: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Parts of very different sizes where alpha is small."""
        _check(labels, clients)
        parts: list[list[np.ndarray]] = [[] for _ in range(clients)]
        for label in np.unique(labels):
            rows = rng.permutation(np.flatnonzero(labels == label))
            shares = np.cumsum(rng.dirichlet(np.full(clients, self.alpha)))[:-1]
            cuts = np.round(shares * len(rows)).astype(np.int64)
            for part, piece in zip(parts, np.split(rows, cuts), strict=True):
                part.append(piece)
        return _none_empty([np.concatenate(part) for part in parts])


@partitioners.register("by-class")
class ByClass(Partitioner):
    """Strongest skew: each client holds whole classes; clients share a class where there are too few.

    Classes are dealt out in random order. A client left empty gets one image of the fullest.
    """

    def split(self, labels: np.ndarray, clients: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Parts with disjoint classes if there are at least as many classes as clients."""
        _check(labels, clients)
        classes = rng.permutation(np.unique(labels))
        parts: list[list[np.ndarray]] = [[] for _ in range(clients)]
        for place, label in enumerate(classes):
            owners = range(place % clients, clients, len(classes))
            rows = rng.permutation(np.flatnonzero(labels == label))
            for owner, piece in zip(owners, np.array_split(rows, len(owners)), strict=True):
                parts[owner].append(piece)
        return _none_empty([np.concatenate(part) for part in parts])


def _check(labels: np.ndarray, clients: int) -> None:
    if clients < 1:
        raise ConfigError(f"expected at least 1 client, got {clients}")
    if len(labels) < clients:
        raise ConfigError(
            f"{len(labels)} images cannot be shared among {clients} clients: each needs at least one. "
            "Lower --clients, or take a larger data set"
        )


def _none_empty(parts: list[np.ndarray]) -> list[np.ndarray]:
    """Give each empty part the last image of the fullest one; sort all."""
    for empty in range(len(parts)):
        if not len(parts[empty]):
            fullest = max(range(len(parts)), key=lambda index: len(parts[index]))
            parts[empty], parts[fullest] = parts[fullest][-1:], parts[fullest][:-1]
    return [np.sort(part) for part in parts]
