"""The recording grid changes nothing and captures what left the client, whatever the strategy does to it."""

import gc
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.clientapp.mod import adaptiveclipping_mod, fixedclipping_mod
from flwr.serverapp import Grid, strategy
from flwr.serverapp.strategy import Result, Strategy

from fl_audit.core.captures import list_captures, read_update
from fl_audit.core.errors import ConfigError
from fl_audit.core.seeding import seeded_globals
from fl_audit.federation._flwr_private import task_identity
from fl_audit.federation.local_engine import LocalGrid
from fl_audit.federation.server_app import quiet_flower
from fl_audit.strategies import AuditGrid, Recorder, audited
from tests.strategies.interception_cases import NODES, ROUNDS, Clients, model, train_message


@pytest.fixture(autouse=True)
def _quick_collect() -> Iterator[None]:
    """QFedAvg and Bulyan collect garbage once per reply; without the imported modules that takes no time."""
    gc.freeze()
    yield
    gc.unfreeze()


class OwnLoop(strategy.FedAvg):
    """Overrides start() with a loop of its own that pushes and pulls."""

    def start(self, grid: Grid, initial_arrays: ArrayRecord, *args: Any, **kwargs: Any) -> Result:
        arrays = initial_arrays
        config = ConfigRecord()
        for number in range(1, ROUNDS + 1):
            outgoing = list(self.configure_train(number, arrays, config, grid))
            names = grid.push_messages(message for message in outgoing)
            replies = list(grid.pull_messages(names))
            aggregated, _ = self.aggregate_train(number, replies)
            assert aggregated is not None
            arrays = aggregated
        result = Result()
        result.arrays = arrays
        return result


def plain(cls: type[Strategy], **settings: Any) -> Callable[[], Strategy]:
    return lambda: cls(fraction_train=1.0, **settings)  # type: ignore[call-arg]


def private(cls: Any, *settings: float) -> Callable[[], Strategy]:
    return lambda: cls(strategy.FedAvg(fraction_train=0.9), 0.5, *settings)


STRATEGIES: dict[str, tuple[Callable[[], Strategy], Any]] = {
    "fedavg": (plain(strategy.FedAvg), None),
    "fedadam": (plain(strategy.FedAdam), None),
    "fedmedian": (plain(strategy.FedMedian), None),
    "krum": (plain(strategy.Krum, num_malicious_nodes=1), None),
    "fedtrimmedavg": (plain(strategy.FedTrimmedAvg), None),
    "qfedavg": (plain(strategy.QFedAvg, client_learning_rate=0.1), None),
    "fedprox": (plain(strategy.FedProx, proximal_mu=0.1), None),
    "bulyan": (plain(strategy.Bulyan), None),
    "dp-server-fixed": (private(strategy.DifferentialPrivacyServerSideFixedClipping, 0.2, NODES), None),
    "dp-server-adaptive": (private(strategy.DifferentialPrivacyServerSideAdaptiveClipping, NODES), None),
    "dp-client-fixed": (
        private(strategy.DifferentialPrivacyClientSideFixedClipping, 0.2, NODES),
        fixedclipping_mod,
    ),
    "dp-client-adaptive": (
        private(strategy.DifferentialPrivacyClientSideAdaptiveClipping, NODES),
        adaptiveclipping_mod,
    ),
    "own-loop": (plain(OwnLoop), None),
}


def run(target: Strategy, clients: Any, wrap: Callable[[Grid], Grid] = lambda grid: grid) -> Result:
    with quiet_flower(), task_identity(1), seeded_globals(11):
        grid = LocalGrid(clients, clients=NODES, seed=5, run_id=1)
        return target.start(grid=wrap(grid), initial_arrays=model(), num_rounds=ROUNDS)


def final(result: Result) -> dict[str, bytes]:
    return {name: array.data for name, array in result.arrays.items()}


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_result_is_the_same_to_the_bit_and_captures_are_what_left(name: str, tmp_path: Path) -> None:
    make, mod = STRATEGIES[name]
    bare = final(run(make(), Clients(mod)))
    assert bare != {key: array.data for key, array in model().items()}
    clients = Clients(mod)
    target = make()
    assert audited(target, out=tmp_path) is target
    assert final(run(target, clients)) == bare
    on_grid = run(make(), Clients(mod), lambda grid: audited(grid, out=tmp_path / "grid"))
    assert final(on_grid) == bare

    keys = list_captures(tmp_path / "captures", "none")
    assert len(keys) == len(clients.left) >= ROUNDS * 5
    order = {node: rank for rank, node in enumerate(sorted(_nodes()))}
    partition_of = {rank: _nodes().index(node) for node, rank in order.items()}
    for key in keys:
        update = read_update(tmp_path / "captures", key)
        left = clients.left[key.round, partition_of[key.client]]
        assert list(update.received) == list(left) == ["w", "b"]
        assert all(np.array_equal(update.received[n].numpy(), array) for n, array in left.items())
        assert update.config["server-round"] == key.round
        assert update.num_examples == 3 + partition_of[key.client]
    first = read_update(tmp_path / "captures", keys[0])
    assert all(np.array_equal(first.sent[n].numpy(), array.numpy()) for n, array in model().items())


def _nodes() -> list[int]:
    with task_identity(1):
        return list(LocalGrid(Clients(), clients=NODES, seed=5, run_id=1).get_node_ids())  # type: ignore[arg-type]


def test_no_global_generator_is_drawn_from(tmp_path: Path) -> None:
    import random

    class NoSampling(strategy.FedAvg):
        def configure_train(self, *args: Any, **kwargs: Any) -> Iterable[Message]:
            state = random.getstate()
            messages = super().configure_train(*args, **kwargs)
            random.setstate(state)  # Flower's own draw
            return messages

    with task_identity(1), quiet_flower():
        grid = LocalGrid(Clients(), clients=NODES, seed=5, run_id=1)  # type: ignore[arg-type]
        before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # type: ignore[index]
        audited(NoSampling(fraction_evaluate=0.0), out=tmp_path).start(grid, model(), num_rounds=1)
        after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # type: ignore[index]
    assert before == after


def test_what_cannot_be_audited_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Flower strategy"):
        audited(object(), out=tmp_path)
    target = audited(strategy.FedAvg(), out=tmp_path)
    with pytest.raises(ConfigError, match="audited already"):
        audited(target, out=tmp_path)
    with task_identity(1):
        grid = audited(LocalGrid(Clients(), clients=2, seed=1, run_id=1), out=tmp_path)  # type: ignore[arg-type]
        assert isinstance(grid, AuditGrid)
        with pytest.raises(ConfigError, match="audited already"):
            audited(grid, out=tmp_path)


def test_threads_and_partial_pulls(tmp_path: Path) -> None:
    """Flower's older API sends from a pool of threads, one message each."""
    clients = Clients()
    lock = threading.Lock()

    class Locked(LocalGrid):
        def _handle(self, message: Message) -> None:
            with lock:
                super()._handle(message)

    with task_identity(1):
        raw = Locked(clients, clients=NODES, seed=1, run_id=1)  # type: ignore[arg-type]
        grid = AuditGrid(raw, Recorder(tmp_path))
        with ThreadPoolExecutor(4) as pool:
            jobs = [pool.submit(grid.send_and_receive, [train_message(n)]) for n in raw.get_node_ids()]
            assert sorted(len(list(job.result())) for job in jobs) == [1] * NODES
    assert len(list_captures(tmp_path / "captures", "none")) == NODES


def test_no_reply_in_time_is_recorded(tmp_path: Path) -> None:
    with task_identity(1):
        raw = LocalGrid(Clients(), clients=2, seed=1, run_id=1)  # type: ignore[arg-type]
        grid = AuditGrid(raw, Recorder(tmp_path))
        messages = [train_message(node) for node in raw.get_node_ids()]
        assert list(grid.send_and_receive(messages, timeout=0.0)) == []
    keys = list_captures(tmp_path / "captures", "none")
    assert len(keys) == 2
    assert "no reply" in str(read_update(tmp_path / "captures", keys[0]).problem())
