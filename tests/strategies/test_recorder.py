"""What the recorder keeps of a round, and what that takes."""

import tracemalloc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from torch.profiler import ProfilerActivity, profile

from fl_audit.core.captures import list_captures
from fl_audit.federation._flwr_private import task_identity
from fl_audit.federation.local_engine import LocalGrid
from fl_audit.strategies import Recorder, audited
from tests.strategies.interception_cases import Clients, model, train_message


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
