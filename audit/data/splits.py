"""Who holds which images: train and test of each client, and a held-out set that belongs to none."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fl_audit.core.errors import ConfigError
from fl_audit.core.seeding import numpy_generator
from fl_audit.core.units import ImageData, Partitioner


@dataclass(frozen=True)
class Splits:
    """Indices into a data set, int64 ``(n,)`` each; all disjoint, together the whole data set.

    Each is in a random order of which every beginning holds the classes in about their proportions, so that
    whoever needs only some images may take the first.

    Attributes:
        train: for each client what it trains on; never empty.
        test: for each client what it tests on; empty where a client has one image only.
        held_out: what no client holds: server-side utility, and the images of the controls.
    """

    train: tuple[Tensor, ...]
    test: tuple[Tensor, ...]
    held_out: Tensor


def client_splits(
    data: ImageData, partitioner: Partitioner, clients: int, *, test_fraction: float, seed: int
) -> Splits:
    """Hold out a part of every class, share out the rest, and split each client's share.

    Args:
        data: the data set.
        partitioner: how the images are shared out.
        clients: number of clients, at least 1.
        test_fraction: in (0, 1): share of the whole that is held out, and then share of each client's
            images that it tests on.
        seed: run seed; the same arguments give the same splits.

    Raises:
        ConfigError: there are too few images for that.
    """
    if not 0 < test_fraction < 1:
        raise ConfigError(f"test_fraction: expected a share between 0 and 1, got {test_fraction}")
    labels = data.labels.numpy()
    if len(labels) < clients + 1:
        raise ConfigError(
            f"{data.title} has {len(labels)} images: too few for {clients} clients with one image each and a "
            "held-out test set. Lower --clients, or take a larger data set"
        )
    rng = numpy_generator(seed, "held-out")
    order = _spread(labels, rng)
    count = min(max(1, round(test_fraction * len(labels))), len(labels) - clients)
    rest = np.sort(order[count:])
    parts = partitioner.split(labels[rest], clients, numpy_generator(seed, "partition"))
    train, test = [], []
    for client, part in enumerate(parts):
        own = rest[part]
        mixed = own[_spread(labels[own], numpy_generator(seed, "client-split", client))]
        wanted = max(1, round(test_fraction * len(own)))
        cut = min(wanted, len(own) - 1)  # the train part is never empty
        test.append(_indices(mixed[:cut]))
        train.append(_indices(mixed[cut:]))
    return Splits(tuple(train), tuple(test), _indices(order[:count]))


def _spread(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random order of which every beginning holds the classes in about their proportions.

    Each class's images get places (k + u) / n for k = 0 … n - 1 with one random u for the class, so that
    the first share p of the order has p of each class, to within one image.
    """
    place = np.empty(len(labels))
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        place[rows] = (np.arange(len(rows)) + rng.random()) / len(rows)
    return np.argsort(place, kind="stable")


def _indices(rows: np.ndarray) -> Tensor:
    return torch.from_numpy(rows.astype(np.int64))
