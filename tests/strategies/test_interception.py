"""The recording grid changes nothing and captures what left the client, whatever the strategy does to it."""

import gc
import io
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp.mod import adaptiveclipping_mod, fixedclipping_mod
from flwr.serverapp import Grid, strategy
from flwr.serverapp.strategy import Result, Strategy
from torch.profiler import ProfilerActivity, profile

from fl_audit.core.captures import list_captures, read_update
from fl_audit.core.errors import ConfigError
from fl_audit.core.seeding import seeded_globals
from fl_audit.core.types import CaptureKey
from fl_audit.federation._flwr_private import task_identity
from fl_audit.federation.local_engine import LocalGrid
from fl_audit.federation.server_app import quiet_flower
from fl_audit.strategies import AuditGrid, Recorder, audited
from tests.federation.toy import NumpyClients

NODES = 6
ROUNDS = 2


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


class Clients(NumpyClients):
    """`NumpyClients` behind a mod of Flower; keeps what left after the mod."""

    def __init__(self, mod: Any = None) -> None:
        super().__init__()
        self._mod = mod

    def __call__(self, message: Message, context: Any) -> Message:
        app = self.app()
        is_train = message.metadata.message_type == "train"
        reply = (
            app(message, context) if self._mod is None or not is_train else self._mod(message, context, app)
        )
        if is_train:
            number = next(iter(message.content.config_records.values()))["server-round"]
            client = context.node_config["partition-id"]
            arrays = next(iter(reply.content.array_records.values()))
            self.left[number, client] = {name: array.numpy() for name, array in arrays.items()}  # type: ignore[index]
        return reply


def model() -> ArrayRecord:
    rng = np.random.default_rng(0)
    return ArrayRecord({"w": Array(rng.normal(size=(5, 4))), "b": Array(rng.normal(size=4))})


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


def train_message(node: int, content: RecordDict | None = None, group: str = "") -> Message:
    config = ConfigRecord({"server-round": 2})
    return Message(content or RecordDict({"a": model(), "c": config}), node, "train", group_id=group)


def test_the_round_comes_from_config_then_group_then_a_count(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    with task_identity(1):
        bare = RecordDict({"a": model()})
        assert [recorder.snapshot([train_message(1)])[0].key.round for _ in range(2)] == [2, 2]
        assert recorder.snapshot([train_message(1, bare, "7")])[0].key.round == 7
        assert [s.key.round for s in recorder.snapshot([train_message(n, bare) for n in (1, 2)])] == [4, 4]
        assert recorder.snapshot([train_message(1, bare, "not a number")])[0].key.round == 5


def test_of_a_round_the_clients_with_the_lowest_numbers_are_kept(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, keep=lambda number, client: client != 3, clients=2)
    recorder.know_clients({10 * number: number for number in range(9)})

    def kept(*clients: int, group: str) -> list[int]:
        content = RecordDict({"a": model()})
        sent = recorder.snapshot(train_message(10 * client, content, group) for client in clients)
        return [item.key.client for item in sent if item.kept]

    with task_identity(1):
        assert kept(8, 3, 5, 4, group="1") == [5, 4]
        assert kept(7, 8, 3, group="2") == [7, 8]
        assert kept(6, group="3") == [6]
        assert kept(2, 5, 1, group="3") == [1]  # more of round 3: one place was left
        assert kept(1, 2, 6, group="3") == [1, 6]  # a later step of the round's protocol


def test_what_is_not_kept_is_not_even_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    monkeypatch.setattr(Recorder, "record", lambda *_: read.append(1))
    with task_identity(1):
        raw = LocalGrid(Clients(), clients=3, seed=1, run_id=1)  # type: ignore[arg-type]
        grid = audited(raw, out=tmp_path, keep=lambda *_: False)
        assert len(list(grid.send_and_receive([train_message(n) for n in raw.get_node_ids()]))) == 3
    assert not read


def test_the_model_of_a_round_is_hashed_once_and_let_go(tmp_path: Path) -> None:
    content = RecordDict({"a": model()})
    recorder = Recorder(tmp_path)
    with task_identity(1):
        first, second = recorder.snapshot(train_message(node, content) for node in (1, 2))
        other = recorder.snapshot([train_message(3, RecordDict({"a": model()}))])[0]
    assert first.model is second.model
    assert other.model is not first.model  # equal, but other bytes
    assert other.model.digest == first.model.digest
    gone = weakref.ref(first.model)
    del first, second
    assert gone() is None


def test_recording_takes_less_memory_than_the_model(tmp_path: Path) -> None:
    """Arrays are read as views and written as they lie in memory; a model takes 8 times this."""
    size = 2**20
    sent = RecordDict({"a": ArrayRecord({str(i): Array(np.zeros(size // 4, np.float32)) for i in range(8)})})
    answer = ArrayRecord({str(i): Array(np.ones(size // 4, np.float32)) for i in range(8)})

    def client(message: Message, context: Any) -> Message:
        del context
        return Message(RecordDict({"a": answer, "m": MetricRecord({"num-examples": 1})}), reply_to=message)

    def exchanged(out: str) -> None:
        with task_identity(1):
            raw = LocalGrid(client, clients=2, seed=1, run_id=1)  # type: ignore[arg-type]
            audited(raw, out=tmp_path / out).send_and_receive(
                [train_message(node, sent) for node in raw.get_node_ids()]
            )
        assert len(list_captures(tmp_path / out / "captures", "none")) == 2

    exchanged("first")  # what is imported on the way
    tracemalloc.start()
    exchanged("numpy")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        exchanged("torch")
    allocated = sum(max(event.self_cpu_memory_usage, 0) for event in seen.key_averages())
    assert peak + allocated < size


def hostile(arrays: dict[str, Array], metrics: dict[str, Any] | None = None) -> Callable[..., Message]:
    def client(message: Message, context: Any) -> Message:
        del context
        record = ArrayRecord(arrays)
        content = RecordDict({"a": record, "m": MetricRecord(metrics or {"num-examples": 1})})
        return Message(content, reply_to=message)

    return client


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def exchange(client: Any, out: Path, *, quarantine: bool = False) -> tuple[Message, Any]:
    """One train exchange with one client, and its capture."""
    with task_identity(1):
        raw = LocalGrid(client, clients=1, seed=1, run_id=1)
        grid = AuditGrid(raw, Recorder(out), quarantine=quarantine)
        [reply] = grid.send_and_receive([train_message(raw.get_node_ids()[0])])
    return reply, read_update(out / "captures", CaptureKey("none", 2, 0))


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (Array("float64", (3,), "numpy.ndarray", b"\x80\x04 not an array"), "cannot be read"),
        (Array("float64", (3,), "numpy.ndarray", npy(np.zeros(3))[:-8]), "takes 24 bytes, 16 came"),
        (Array("float64", (3,), "torch.pickle", npy(np.zeros(3))), "torch.pickle"),
        (Array("object", (1,), "numpy.ndarray", npy(np.zeros(1, "O"))), "dtype object"),
        (Array("<U3", (1,), "numpy.ndarray", npy(np.array(["abc"]))), "dtype <U3"),
        (Array("complex64", (1,), "numpy.ndarray", npy(np.zeros(1, np.complex64))), "dtype complex64"),
        (Array("float64", (), "numpy.ndarray", b""), "cannot be read"),
    ],
)
def test_unreadable_arrays_are_an_error_of_that_client(array: Array, why: str, tmp_path: Path) -> None:
    reply, update = exchange(hostile({"w": array, "b": Array(np.ones(4))}), tmp_path)
    assert reply.has_content()  # traffic passes through
    assert why in update.problem()
    assert list(update.received) == ["b"]
    withheld, _ = exchange(hostile({"w": array}), tmp_path / "q", quarantine=True)
    assert withheld.has_error()
    assert "withheld" in str(withheld.error.reason)


def test_a_header_that_promises_too_much_allocates_nothing(tmp_path: Path) -> None:
    data = npy(np.zeros((10, 1)))
    lied = data.replace(b"(10, 1), }" + b" " * 11, b"(1000000000000, 1), }")
    assert len(lied) == len(data)
    assert lied != data
    _, update = exchange(hostile({"w": Array("float64", (1,), "numpy.ndarray", lied)}), tmp_path)
    assert "takes 8000000000000 bytes, 80 came" in update.problem()


def test_arrays_of_every_layout_are_read(tmp_path: Path) -> None:
    values = np.arange(20.0).reshape(5, 4)
    arrays = {"w": values.astype(">f8"), "f": np.asfortranarray(values), "b": np.asarray(2.5)}
    arrays |= {"e": np.zeros((0, 3), np.float32), "t": np.asarray([True, False])}
    sent = {n: Array(str(a.dtype), a.shape, "numpy.ndarray", npy(a)) for n, a in arrays.items()}
    _, update = exchange(hostile(sent), tmp_path)
    for name, array in arrays.items():
        assert np.array_equal(update.received[name].numpy(), array)
    assert update.received["b"].shape == ()


def test_arrays_that_share_their_bytes_are_written_twice(tmp_path: Path) -> None:
    tied = Array(np.ones((5, 4)))
    _, update = exchange(hostile({"w": tied, "b": tied}), tmp_path)
    assert torch.equal(update.received["w"], update.received["b"])


def test_metrics_are_kept_as_scalars_or_summed_up(tmp_path: Path) -> None:
    metrics = {
        "num-examples": 3,
        "nan": float("nan"),
        "inf": float("inf"),
        "list": [1.0] * 1000,
        "huge": 10**300,
        "<script>": 1,
        "\ud800": 2,
        "long" * 100: 1,
    }
    _, update = exchange(hostile({"w": Array(np.ones((5, 4)))}, metrics), tmp_path)
    assert update.num_examples == 3
    assert update.metrics["list"] == "a list of 1000 values"
    assert update.metrics["huge"] == "an integer of 997 bits"
    assert update.metrics["nan"] != update.metrics["nan"]
    assert update.metrics["<script>"] == 1  # the reports escape it
    assert max(len(name) for name in update.metrics) <= 100


@pytest.mark.parametrize("name", ["__metadata__", "", "\ud800"])
def test_names_that_no_file_can_hold_are_an_error_of_that_client(name: str, tmp_path: Path) -> None:
    _, update = exchange(hostile({name: Array(np.ones(4))}), tmp_path)
    assert "cannot be read" in update.problem()


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
