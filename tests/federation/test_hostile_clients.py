"""A client may do anything: it is recorded with the reason, and the round goes on with the others."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fl_audit.core.captures import list_captures, read_update
from fl_audit.core.errors import FederationError
from fl_audit.core.types import CaptureKey
from fl_audit.federation import FederationResult, run_federation
from fl_audit.strategies.defenses import defenses
from tests.federation.toy import CLIENTS, NumpyClients, toy_spec

Arrays = dict[str, np.ndarray]
Metrics = dict[str, Any]


def crash(arrays: Arrays, metrics: Metrics) -> None:
    raise RuntimeError("disk <b>full</b>")


def nan(arrays: Arrays, metrics: Metrics) -> None:
    arrays["head.weight"][0, 0] = np.nan


def inf(arrays: Arrays, metrics: Metrics) -> None:
    arrays["head.weight"][0, 0] = np.inf


def reshape(arrays: Arrays, metrics: Metrics) -> None:
    arrays["head.weight"] = arrays["head.weight"].T


def drop(arrays: Arrays, metrics: Metrics) -> None:
    del arrays["head.bias"]


def add(arrays: Arrays, metrics: Metrics) -> None:
    arrays["extra"] = np.ones(3)


def no_weight(arrays: Arrays, metrics: Metrics) -> None:
    del metrics["num-examples"]


def nan_weight(arrays: Arrays, metrics: Metrics) -> None:
    metrics["num-examples"] = float("nan")


def negative_weight(arrays: Arrays, metrics: Metrics) -> None:
    metrics["num-examples"] = -100


def list_weight(arrays: Arrays, metrics: Metrics) -> None:
    metrics["num-examples"] = [1, 2]


def more_metrics(arrays: Arrays, metrics: Metrics) -> None:
    metrics["surprise"] = 1.0


def run(changes: dict[int, Any], out: Path, defense: str = "none", **spec: Any) -> FederationResult:
    return run_federation(
        toy_spec(**spec),
        defense=defenses.create(defense),
        defense_slug=defense.partition(":")[0],
        out=out,
        client_app=NumpyClients(changes).app(),
    )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (crash, "the client failed: RuntimeError: disk <b>full</b>"),
        (nan, "contains NaN"),
        (inf, "contains inf"),
        (reshape, "has shape"),
        (drop, "missing ['head.bias']"),
        (add, "extra ['extra']"),
    ],
)
@pytest.mark.parametrize("strategy", ["fedavg", "fedmedian"])
def test_a_bad_update_is_recorded_and_the_round_goes_on(
    change: Any, why: str, strategy: str, tmp_path: Path
) -> None:
    result = run({1: change}, tmp_path / "bad", strategy=strategy)
    assert [(f.round, f.client) for f in result.failures] == [(1, 1), (2, 1)]
    assert why in result.failures[0].reason
    assert all(bool(torch.isfinite(tensor.float()).all()) for tensor in result.weights.values())
    assert len(list_captures(tmp_path / "bad" / "captures", "none")) == 2 * CLIENTS
    assert why in str(read_update(tmp_path / "bad" / "captures", CaptureKey("none", 1, 1)).problem())
    assert read_update(tmp_path / "bad" / "captures", CaptureKey("none", 1, 0)).problem() is None
    assert result.participation[1] == (0 if change is crash else 2)
    assert result.participation[0] == 2


@pytest.mark.parametrize("change", [no_weight, nan_weight, negative_weight, list_weight, more_metrics])
def test_bad_metrics_cannot_stop_or_steer_the_round(change: Any, tmp_path: Path) -> None:
    result = run({1: change}, tmp_path / "bad")
    without = run({1: crash}, tmp_path / "without")
    assert all(torch.equal(result.weights[name], tensor) for name, tensor in without.weights.items())
    # the arrays themselves are sound: the update can be attacked
    assert read_update(tmp_path / "bad" / "captures", CaptureKey("none", 1, 1)).problem() is None


def test_a_zero_update_is_no_failure_of_the_round(tmp_path: Path) -> None:
    def zero(arrays: Arrays, metrics: Metrics) -> None:
        sent = read_update(tmp_path / "ref" / "captures", CaptureKey("none", 1, 0)).sent
        arrays.update({name: tensor.numpy() for name, tensor in sent.items()})

    run({}, tmp_path / "ref", rounds=1)
    result = run(dict.fromkeys(range(CLIENTS), zero), tmp_path / "bad", rounds=1)
    assert result.failures == ()
    update = read_update(tmp_path / "bad" / "captures", CaptureKey("none", 1, 2))
    assert "zero" in str(update.problem())


@pytest.mark.parametrize("defense", ["dp", "clip:1", "prune:0.5", "noise:0.1"])
def test_defenses_meet_hostile_clients(defense: str, tmp_path: Path) -> None:
    result = run({0: nan, 1: reshape, 2: drop}, tmp_path, defense, rounds=1)
    assert {failure.client for failure in result.failures} == {0, 1, 2}
    sound = read_update(tmp_path / "captures", CaptureKey(defense.partition(":")[0], 1, 3))
    assert sound.problem() is None
    if defense == "dp":
        assert "must not leave" in result.failures[0].reason


def test_a_round_in_which_every_client_fails_is_an_error_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(FederationError, match=r"every client failed in round 1: .*disk <b>full</b>"):
        run(dict.fromkeys(range(CLIENTS), crash), tmp_path)
    assert len(list_captures(tmp_path / "captures", "none")) == CLIENTS


def test_truth_that_cannot_be_seen_is_said_so(tmp_path: Path) -> None:
    result = run({}, tmp_path, rounds=1)  # these clients train with numpy
    assert len(result.truth_unavailable) == CLIENTS
    assert "no optimiser step" in result.truth_unavailable[0].reason
    assert (tmp_path / "truth" / "none" / "r001-c00.json").exists()
