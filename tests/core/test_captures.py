import contextlib
import hashlib
import json
import os
import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fl_audit.core.captures import (
    list_captures,
    read_sent,
    read_truth,
    read_update,
    sent_file,
    write_truth,
    write_update,
)
from fl_audit.core.durable import BEHIND, DiskQueue
from fl_audit.core.errors import CaptureError
from fl_audit.core.types import CaptureKey, GroundTruth, TrainingDetails, Update

KEY = CaptureKey("dp", 3, 2)


def update(**changes: object) -> Update:
    sent = {"w": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(1.5), "n": torch.tensor(4)}
    received = {"w": sent["w"] + 1, "a": torch.tensor(2.5), "n": torch.tensor(5)}
    values: dict[str, object] = {
        "key": KEY,
        "node_id": 7,
        "sent": sent,
        "received": received,
        "config": {"server-round": 3},
        "metrics": {"num-examples": 4, "loss": float("nan")},
    }
    return Update(**(values | changes))  # type: ignore[arg-type]


def test_an_update_comes_back_as_it_was(tmp_path: Path) -> None:
    write_update(tmp_path, update())
    back = read_update(tmp_path, KEY)
    assert list(back.sent) == ["w", "a", "n"]
    assert all(torch.equal(back.received[name], tensor) for name, tensor in update().received.items())
    assert back.received["n"].dtype == torch.int64
    assert back.num_examples == 4
    assert back.metrics["loss"] != back.metrics["loss"]  # NaN survives JSON, which has none
    assert list_captures(tmp_path, "dp") == [KEY]


def test_the_sent_model_is_stored_once_for_all_clients(tmp_path: Path) -> None:
    for client in range(5):
        write_update(tmp_path, update(key=CaptureKey("dp", 3, client)))
    assert len(list((tmp_path / "dp").glob("sent-*.safetensors"))) == 1


def test_the_sent_model_alone(tmp_path: Path) -> None:
    write_update(tmp_path, update())
    write_update(tmp_path, update(key=CaptureKey("dp", 3, 4)))
    assert sent_file(tmp_path, KEY) == sent_file(tmp_path, CaptureKey("dp", 3, 4))
    (tmp_path / "dp" / "r003-c02.safetensors").unlink()
    back = read_sent(tmp_path, KEY)
    assert list(back) == ["w", "a", "n"]
    assert all(torch.equal(back[name], tensor) for name, tensor in update().sent.items())
    data = bytearray(sent_file(tmp_path, KEY).read_bytes())
    data[-1] ^= 1
    sent_file(tmp_path, KEY).write_bytes(bytes(data))
    with pytest.raises(CaptureError, match="contents differ from its name"):
        read_sent(tmp_path, KEY)


@pytest.mark.parametrize("damage", ["truncate", "flip", "swap-sent", "missing", "json", "field", "path"])
def test_damage_is_named(tmp_path: Path, damage: str) -> None:
    write_update(tmp_path, update())
    arrays, clear = tmp_path / "dp" / "r003-c02.safetensors", tmp_path / "dp" / "r003-c02.json"
    sent = next((tmp_path / "dp").glob("sent-*.safetensors"))
    named = arrays
    if damage == "truncate":
        arrays.write_bytes(arrays.read_bytes()[:-8])
    elif damage == "flip":
        data = bytearray(arrays.read_bytes())
        data[-1] ^= 1
        arrays.write_bytes(bytes(data))
    elif damage == "swap-sent":
        data, named = bytearray(sent.read_bytes()), sent
        data[-1] ^= 1
        sent.write_bytes(bytes(data))
    elif damage == "missing":
        arrays.unlink()
    elif damage == "json":
        clear.write_text("{")
        named = clear
    else:
        value = json.loads(clear.read_text())
        value.update({"extra": 1} if damage == "field" else {"sent": "../../etc/passwd"})
        clear.write_text(json.dumps(value))
        named = clear
    with pytest.raises(CaptureError, match=named.name):
        read_update(tmp_path, KEY)


@pytest.mark.parametrize(
    ("received", "words"),
    [
        ({}, "missing"),
        ({"w": torch.zeros(2, 3), "a": torch.tensor(0.0), "n": torch.tensor(1), "x": torch.ones(1)}, "extra"),
        (
            {"w": torch.zeros(3, 2), "a": torch.tensor(0.0), "n": torch.tensor(1)},
            r"shape \(3, 2\), expected \(2, 3\)",
        ),
        ({"w": torch.full((2, 3), torch.nan), "a": torch.tensor(0.0), "n": torch.tensor(1)}, "NaN"),
        ({"w": torch.zeros(2, 3), "a": torch.tensor(torch.inf), "n": torch.tensor(1)}, "inf"),
    ],
)
def test_what_cannot_be_attacked_says_why(received: dict[str, torch.Tensor], words: str) -> None:
    import re

    problem = update(received=received).problem()
    assert problem is not None
    assert re.search(words, problem)


def test_finite_values_with_an_infinite_sum_are_no_problem() -> None:
    big = torch.full((2, 3), torch.finfo(torch.float32).max)
    assert torch.isinf(big.sum())
    received = {"w": big, "a": torch.tensor(0.0), "n": torch.tensor(1)}
    assert update(received=received).problem() is None
    mixed = big.clone()
    mixed[0, 0], mixed[1, 2] = torch.inf, -torch.inf  # the sum is NaN
    assert "inf" in str(update(received=received | {"w": mixed}).problem())


def test_a_capture_is_what_the_safetensors_library_writes(tmp_path: Path) -> None:
    write_update(tmp_path, update())
    data = (tmp_path / "dp" / "r003-c02.safetensors").read_bytes()
    assert data == safetensors.torch.save({name: t.clone() for name, t in update().received.items()})
    digest = hashlib.sha256()
    for name, tensor in update().received.items():
        head = f"{len(name)}:{name}:{tensor.dtype}:{tuple(tensor.shape)}:"
        digest.update(head.encode() + tensor.numpy().tobytes())
    clear = json.loads((tmp_path / "dp" / "r003-c02.json").read_text())
    assert clear["sha256"] == digest.hexdigest()
    assert not list((tmp_path / "dp").glob(".*"))


def test_zero_updates_and_client_errors_are_problems() -> None:
    zero = update(received=update().sent).problem()
    assert zero is not None
    assert "zero" in zero
    failed = update(error="boom").problem()
    assert failed is not None
    assert "boom" in failed
    assert update().problem() is None


@pytest.mark.parametrize("value", [True, "4", 0, -1, 2.5, float("nan"), float("inf"), 2**40])
def test_num_examples_is_believed_only_if_it_can_be_true(value: object) -> None:
    assert update(metrics={"num-examples": value}).num_examples is None


def test_truth_comes_back_and_is_unique_by_image(tmp_path: Path) -> None:
    images = torch.rand(3, 1, 4, 4)
    truth = GroundTruth(
        images[[2, 0, 2, 1]],
        torch.tensor([2, 0, 2, 1]),
        torch.tensor([0, 0, 1, 1]),
        torch.tensor([5, 6, 5, 7]),
        TrainingDetails(local_steps=2, batch_size=2, train_mode=True),
    )
    write_truth(tmp_path, KEY, truth)
    back = read_truth(tmp_path, KEY)
    assert back.training == truth.training
    once = back.unique()
    assert once.labels.tolist() == [2, 0, 1]
    assert torch.equal(once.images, images[[2, 0, 1]])
    assert once.steps.tolist() == [0, 0, 1]
    (tmp_path / "dp" / "r003-c02.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CaptureError, match="r003-c02"):
        read_truth(tmp_path, KEY)


def test_what_goes_to_the_disk_later_is_there_at_once(tmp_path: Path) -> None:
    queue = DiskQueue()
    for client in range(3):
        write_update(tmp_path, update(key=CaptureKey("none", 1, client)), later=queue)
        assert (
            read_update(tmp_path, CaptureKey("none", 1, client)).received.keys() == update().received.keys()
        )
    queue.add(tmp_path / "gone")  # replaced or removed meanwhile
    queue.drain()
    assert len(list_captures(tmp_path, "none")) == 3
    assert not list(tmp_path.rglob(".*"))


def test_whoever_writes_faster_than_the_disk_waits_for_it(tmp_path: Path) -> None:
    """A pipe that nobody reads holds the disk's thread up."""
    queue, pipe = DiskQueue(), tmp_path / "pipe"
    os.mkfifo(pipe)
    queue.add(pipe)

    def write() -> None:
        for _ in range(BEHIND):
            queue.add(tmp_path / "x")

    writer = threading.Thread(target=write)
    writer.start()
    writer.join(0.2)
    assert writer.is_alive()
    with contextlib.suppress(OSError), pipe.open("wb"):
        writer.join(10)
    assert not writer.is_alive()
