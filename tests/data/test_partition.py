import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_audit.core.errors import ConfigError
from fl_audit.core.units import ImageData
from fl_audit.data import Splits, client_splits, datasets, partitioners

SPECS = ["iid", "dirichlet:0.05", "dirichlet:1", "dirichlet:alpha=100", "by-class"]


def fake(labels: list[int]) -> ImageData:
    return ImageData(torch.zeros(len(labels), 1, 8, 8), torch.tensor(labels), tuple("abcdefghij"), "fake")


@pytest.mark.parametrize("spec", SPECS)
@settings(max_examples=40, deadline=None)
@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    clients=st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_parts_are_disjoint_complete_and_never_empty(
    spec: str, labels: list[int], clients: int, seed: int
) -> None:
    partitioner = partitioners.create(spec)
    if clients > len(labels):
        with pytest.raises(ConfigError, match="cannot be shared"):
            partitioner.split(np.array(labels), clients, np.random.default_rng(seed))
        return
    parts = partitioner.split(np.array(labels), clients, np.random.default_rng(seed))
    assert len(parts) == clients
    assert min(map(len, parts)) > 0
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))


def test_what_the_partitions_are_for() -> None:
    labels = np.repeat(np.arange(10), 100)

    def shares(spec: str, clients: int) -> np.ndarray:
        parts = partitioners.create(spec).split(labels, clients, np.random.default_rng(0))
        return np.array([np.bincount(labels[part], minlength=10) / len(part) for part in parts])

    assert shares("iid", 5).max() < 0.2
    assert shares("dirichlet:0.1", 5).max() > 0.3
    assert shares("dirichlet:1000", 5).max() < 0.15
    assert ((shares("by-class", 5) > 0).sum(0) == 1).all()
    assert ((shares("by-class", 20) > 0).sum(1) == 1).all()
    sizes = [len(part) for part in partitioners.create("iid").split(labels, 7, np.random.default_rng(0))]
    assert max(sizes) - min(sizes) <= 1


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 4), min_size=3, max_size=80),
    clients=st.integers(1, 12),
    fraction=st.floats(0.01, 0.99),
    spec=st.sampled_from(SPECS),
)
def test_splits_are_disjoint_and_complete(
    labels: list[int], clients: int, fraction: float, spec: str
) -> None:
    data = fake(labels)
    if len(labels) < clients + 1:
        with pytest.raises(ConfigError, match="too few"):
            client_splits(data, partitioners.create(spec), clients, test_fraction=fraction, seed=0)
        return
    splits = client_splits(data, partitioners.create(spec), clients, test_fraction=fraction, seed=0)
    everything = torch.cat([*splits.train, *splits.test, splits.held_out])
    assert sorted(everything.tolist()) == list(range(len(labels)))
    assert len(splits.train) == len(splits.test) == clients
    assert min(len(part) for part in splits.train) > 0
    assert len(splits.held_out) > 0


def test_splits_follow_the_seed_and_hold_out_every_class() -> None:
    data = datasets.create("digits").load()

    def split(seed: int) -> Splits:
        return client_splits(data, partitioners.create("dirichlet:0.5"), 4, test_fraction=0.2, seed=seed)

    first, again, other = split(1), split(1), split(2)
    assert all(torch.equal(a, b) for a, b in zip(first.train, again.train, strict=True))
    assert torch.equal(first.held_out, again.held_out)
    assert sorted(first.held_out.tolist()) != sorted(other.held_out.tolist())
    assert len(first.held_out) == round(0.2 * 1797)
    # The first of them already hold every class: whoever takes only some may take the first.
    assert torch.bincount(data.labels[first.held_out[:50]], minlength=10).tolist() == pytest.approx(
        [5] * 10, abs=1
    )
    for train, test in zip(first.train, first.test, strict=True):
        assert len(test) == pytest.approx(0.2 * (len(train) + len(test)), abs=1)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, float("nan")])
def test_impossible_fractions(fraction: float) -> None:
    with pytest.raises(ConfigError, match="test_fraction"):
        client_splits(fake([0] * 9), partitioners.create("iid"), 2, test_fraction=fraction, seed=0)


@pytest.mark.parametrize("spec", ["dirichlet", "dirichlet:0", "dirichlet:-1", "dirichlet:nan", "idd"])
def test_impossible_partitions(spec: str) -> None:
    with pytest.raises(ConfigError):
        partitioners.create(spec)
