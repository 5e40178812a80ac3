"""A round's updates as one: the mean against plain arithmetic, and captures of it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fl_audit.core.aggregates import RunningMean, mean_update
from fl_audit.core.captures import list_captures, read_cohort, read_update, write_update
from fl_audit.core.errors import CaptureError
from fl_audit.core.types import EVERYONE, CaptureKey, Scalar, Update

SENT = {"w": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(1.5), "n": torch.tensor(4)}


def update(client: int, examples: Scalar, add: float, sent: dict[str, torch.Tensor] = SENT) -> Update:
    received = {"w": sent["w"] + add, "a": sent["a"] - add, "n": sent["n"] + int(add)}
    key, metrics = CaptureKey("secagg", 3, client), {"num-examples": examples, "loss": float("nan")}
    return Update(key, 7, sent, received, {"server-round": 3}, metrics)


@pytest.mark.parametrize(("equal", "add"), [(False, (2 * 1.0 + 6 * 3.0) / 8), (True, (1.0 + 3.0) / 2)])
def test_the_mean_is_weighted_by_examples_or_equally(equal: bool, add: float) -> None:
    running = RunningMean(equal_weights=equal)
    running.add(update(4, 6, 3.0))
    running.add(update(1, 2, 1.0))
    mean = running.update()
    np.testing.assert_allclose(mean.received["w"].numpy(), SENT["w"].numpy() + add, rtol=1e-6)
    assert float(mean.received["a"]) == pytest.approx(1.5 - add)
    assert mean.received["n"].dtype == torch.int64
    assert int(mean.received["n"]) == round(4 + add)
    assert [(part.client, part.weight) for part in mean.cohort] == [
        (1, 0.5 if equal else 0.25),
        (4, 0.5 if equal else 0.75),
    ]
    assert (mean.key, mean.num_examples) == (CaptureKey("secagg", 3, EVERYONE), 8)
    assert mean.problem() is None


def test_a_capture_of_it_comes_back_as_it_was(tmp_path: Path) -> None:
    mean = mean_update(
        "secagg",
        3,
        sent=SENT,
        mean={name: tensor + 1 for name, tensor in SENT.items()},
        clients={5: {"num-examples": 3, "loss": float("nan")}, 0: {"num-examples": 1}},
    )
    write_update(tmp_path, mean)
    write_update(tmp_path, update(2, 4, 1.0))
    assert [key.stem for key in list_captures(tmp_path, "secagg")] == ["r003-all", "r003-c02"]
    back = read_update(tmp_path, mean.key)
    assert [(part.client, part.weight) for part in back.cohort] == [(0, 0.25), (5, 0.75)]
    assert read_cohort(tmp_path, mean.key)[0] == back.cohort[0]
    assert back.cohort[1].metrics["loss"] != back.cohort[1].metrics["loss"]
    assert read_update(tmp_path, CaptureKey("secagg", 3, 2)).cohort == ()


def test_what_cannot_be_averaged_is_refused() -> None:
    running = RunningMean()
    with pytest.raises(ValueError, match="at least one client"):
        running.update()
    running.add(update(0, 2, 1.0))
    other = {**SENT, "a": torch.tensor(2.0)}
    with pytest.raises(CaptureError, match="round 3: clients 0 and 1 were sent different models"):
        running.add(update(1, 2, 1.0, other))
    for examples in (0, -1, float("nan"), float("inf"), "many", True):
        with pytest.raises(ValueError, match="client 2: expected a positive num-examples"):
            running.add(update(2, examples, 1.0))
    with pytest.raises(ValueError, match="at least one client"):
        mean_update("secagg", 1, sent=SENT, mean=SENT, clients={})
