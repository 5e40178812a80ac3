"""Central differential privacy: Flower's own wrappers do the work, and their defects do not reach it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent
from dp_accounting.pld import PLDAccountant
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from flwr.supercore.privacy_accounting import (
    GaussianPrivacyEvent,
    NeighboringRelation,
    PrivacyConfig,
    SamplingMethod,
)
from flwr.supercore.privacy_accounting.rdp_accountant import RdpAccountant

from fl_audit.core.errors import ConfigError
from fl_audit.core.seeding import seeded_globals
from fl_audit.federation._flwr_private import task_identity
from fl_audit.federation.flower_strategies import create_strategy, defended_strategy
from fl_audit.strategies._content import record_of
from fl_audit.strategies.central import CentralDP
from fl_audit.strategies.defenses import defenses

Arrays = Mapping[str, np.ndarray]

SENT = {
    "weight": np.full((2, 3), 0.5, np.float32),
    "scale": np.asarray(1.0, np.float32),
    "counter": np.asarray(4),
    "counters": np.arange(3),
}


class Nodes:
    """As much of a grid as sampling asks for."""

    def __init__(self, count: int) -> None:
        self._count = count

    def get_node_ids(self) -> list[int]:
        return list(range(1, 1 + self._count))


def round_of(
    strategy: Any, sent: Arrays, replies: Sequence[Arrays | None], weights: Sequence[int] | None = None
) -> Any:
    """One round; None stands for a client that failed."""
    config = ConfigRecord()
    with task_identity(1), seeded_globals(9, "flower"):
        asked = list(strategy.configure_train(1, record_of(sent), config, Nodes(len(replies))))
        answers = []
        for number, (message, arrays) in enumerate(zip(asked, replies, strict=True)):
            if arrays is None:
                answers.append(Message(Error(code=2), reply_to=message))
                continue
            metrics = MetricRecord({"num-examples": (weights or [1] * len(replies))[number], "loss": 0.5})
            content = RecordDict({"arrays": record_of(arrays), "metrics": metrics})
            answers.append(Message(content, reply_to=message))
        new, _ = strategy.aggregate_train(1, answers)
    return None if new is None else {name: array.numpy() for name, array in new.items()}, config


def defended(spec: str, clients: int, base: str = "fedavg") -> Any:
    return defended_strategy(base, defenses.create(spec), clients=clients, fraction=1.0)


KINDS = ["dp-server", "dp-client"]
EXACT = ":noise_multiplier=1e-9,clipping_norm={}"


@pytest.mark.parametrize("spec", KINDS)
def test_on_arrays_that_flower_can_take_it_is_flowers_own_result_to_the_bit(spec: str) -> None:
    rng = np.random.default_rng(0)
    sent = {"a": rng.normal(size=(4, 5)).astype(np.float32), "b": rng.normal(size=7).astype(np.float32)}
    replies = [
        {name: (v + rng.normal(size=v.shape)).astype(np.float32) for name, v in sent.items()} for _ in "xyz"
    ]
    kind = {
        "dp-server": flower.DifferentialPrivacyServerSideFixedClipping,
        "dp-client": flower.DifferentialPrivacyClientSideFixedClipping,
    }[spec]
    theirs, config = round_of(
        kind(create_strategy("fedavg", clients=3), 0.5, 2.0, 3), sent, [dict(r) for r in replies]
    )
    ours, our_config = round_of(defended(f"{spec}:noise_multiplier=0.5,clipping_norm=2", 3), sent, replies)
    assert all(np.array_equal(ours[name], array) for name, array in theirs.items())
    assert dict(our_config) == dict(config)
    assert ("clipping_norm" in config) == (spec == "dp-client")


@pytest.mark.parametrize("spec", KINDS)
def test_arrays_that_flower_trips_over(spec: str) -> None:
    """0-d parameters are clipped and noised, integers stay, a zero update is one, order does not matter."""
    moved = {name: array + 3 for name, array in SENT.items()}
    turned = dict(reversed(moved.items()))
    new, _ = round_of(
        defended(f"{spec}:noise_multiplier=1,clipping_norm=0.5", 3), SENT, [moved, turned, SENT]
    )
    assert {name: (a.shape, a.dtype) for name, a in new.items()} == {
        n: (a.shape, a.dtype) for n, a in SENT.items()
    }
    assert new["counter"] == 4
    assert new["counters"].tolist() == [0, 1, 2]
    exact, _ = round_of(defended(spec + EXACT.format(0.5), 3), SENT, [moved, turned, SENT])
    assert new["scale"] != exact["scale"]
    step = 0.5 / math.sqrt(7) if spec == "dp-server" else 3.0  # clients clip before it comes here
    for name in ("weight", "scale"):
        np.testing.assert_allclose(exact[name] - SENT[name], 2 / 3 * step, rtol=1e-4)


def test_flower_alone_trips_over_them() -> None:
    """Why the above is needed: watch for the version of Flower in which it no longer is."""

    def alone(*names: str, add: float = 1.0) -> Any:
        sent = {name: SENT[name] for name in names}
        base = create_strategy("fedavg", clients=1)
        bare = flower.DifferentialPrivacyServerSideFixedClipping(base, 1e-9, 0.5, 1)
        return round_of(
            bare, sent, [{name: (array + add).astype(array.dtype) for name, array in sent.items()}]
        )[0]

    assert alone("weight", "scale")["scale"] == 2.0  # 0-d: neither clipped
    with pytest.raises(TypeError):
        alone("weight", "counters")
    with pytest.raises(ZeroDivisionError):
        alone("weight", add=0.0)


@pytest.mark.parametrize("spec", KINDS)
def test_a_client_cannot_make_itself_heavier(spec: str) -> None:
    replies = [{"w": np.full(4, value)} for value in (1.0, 0.0)]
    new, _ = round_of(defended(spec + EXACT.format(100), 2), {"w": np.zeros(4)}, replies, [10**6, 1])
    np.testing.assert_allclose(new["w"], 0.5, atol=1e-6)


@pytest.mark.parametrize("spec", KINDS)
def test_noise_is_that_of_the_mean(spec: str) -> None:
    sent = {"w": np.zeros(100_000)}
    new, _ = round_of(defended(f"{spec}:noise_multiplier=3,clipping_norm=2", 4), sent, [sent] * 4)
    assert new["w"].std() == pytest.approx(3 * 2 / 4, rel=0.01)
    again, _ = round_of(defended(f"{spec}:noise_multiplier=3,clipping_norm=2", 4), sent, [sent] * 4)
    assert np.array_equal(new["w"], again["w"])


@pytest.mark.parametrize("spec", KINDS)
def test_a_round_without_all_its_clients_releases_nothing(
    spec: str, caplog: pytest.LogCaptureFixture
) -> None:
    new, _ = round_of(defended(spec, 3), SENT, [SENT, None, SENT])
    assert new is None
    assert "2 of 3 clients" in caplog.text


def test_the_sample_is_the_strategys_own() -> None:
    for base, sampled in (("fedavg", 5), ("fedavg:fraction_train=0.4", 4), ("fedavg:min_train_nodes=7", 7)):
        strategy = defended_strategy(base, defenses.create("dp-server"), clients=10, fraction=0.5)
        assert isinstance(strategy, CentralDP)
        assert strategy.inner.num_sampled_clients == sampled


def test_who_it_goes_with() -> None:
    for base in ("fedavg", "fedprox:0.1"):
        assert isinstance(defended("dp-server", 2, base), CentralDP)
    for base in ("fedadam", "fedmedian", "krum"):
        with pytest.raises(
            ConfigError, match="'dp-client' does not go with strategy .*Choose fedavg or fedprox"
        ):
            defended("prune:0.5+dp-client", 2, base)
    with pytest.raises(ConfigError, match="does not go with strategy Looping"):
        defended("dp-server", 2, f"{__name__}:Looping")
    with pytest.raises(ConfigError, match="does not go with strategy CentralDP"):
        defended("dp-client+dp-server", 2)
    for base in ("fedavg", "fedadam", "fedavgm"):
        assert type(defended("secagg", 2, base)) is type(create_strategy(base, clients=2))
    for base in ("fedmedian", "fedtrimmedavg", "krum", "multi-krum", "bulyan", "qfedavg"):
        with pytest.raises(ConfigError, match="'secagg' does not go with .* only their mean"):
            defended_strategy(base, defenses.create("secagg"), clients=2, fraction=1.0, learning_rate=0.1)


class Looping(flower.FedAvg):
    """Has a loop of its own, which Flower's wrappers would drop."""

    def start(self, *args: Any, **kwargs: Any) -> Any:
        return super().start(*args, **kwargs)


@pytest.mark.parametrize("spec", KINDS)
@pytest.mark.parametrize(("multiplier", "rounds"), [(1.0, 1), (4.0, 5), (10.0, 40)])
def test_epsilon_is_the_accounting_librarys_and_below_flowers(
    spec: str, multiplier: float, rounds: int
) -> None:
    spent = defenses.create(f"{spec}:{multiplier}").privacy(rounds=rounds, delta=1e-5)
    assert spent is not None
    assert not spent.against_server
    assert "NOT against the server" in spent.unit
    library = PLDAccountant(value_discretization_interval=1e-4)
    library.compose(GaussianDpEvent(multiplier / 2), rounds)  # two clipped updates are up to 2 C apart
    assert spent.epsilon == pytest.approx(library.get_epsilon(1e-5), rel=1e-3)
    theirs = RdpAccountant(
        PrivacyConfig(1e-5, 6, NeighboringRelation.ADD_OR_REMOVE_ONE, SamplingMethod.NO_AMPLIFICATION)
    )
    theirs.compose(GaussianPrivacyEvent(multiplier / 2, 6, 6), rounds)
    assert 0.75 * theirs.get_epsilon(1e-5) < spent.epsilon < theirs.get_epsilon(1e-5)
