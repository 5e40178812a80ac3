"""What a client may send, whatever it is, is captured or is an error of that client."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict

from fl_audit.core.captures import read_update
from fl_audit.core.types import CaptureKey
from fl_audit.federation._flwr_private import task_identity
from fl_audit.federation.local_engine import LocalGrid
from fl_audit.strategies import AuditGrid, Recorder
from tests.strategies.interception_cases import train_message


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
