"""What the server sees of a federation under defenses that act there, and what clients remember."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fl_audit.core.captures import list_captures, read_truth, read_update
from fl_audit.core.types import EVERYONE, CaptureKey, Update
from fl_audit.federation import FederationResult, Training, run_federation
from fl_audit.strategies.defenses import defenses
from tests.federation.toy import CLIENTS, NumpyClients, ToySplits, toy_spec


def run(out: Path, spec: str, **options: Any) -> FederationResult:
    federation = options.pop("federation", None) or toy_spec(training=Training(batch_size=3))
    return run_federation(federation, defense=defenses.create(spec), defense_slug="d", out=out, **options)


def update(out: Path, number: int, client: int) -> Update:
    return read_update(out / "captures", CaptureKey("d", number, client))


def test_the_server_sees_through_its_own_dp(tmp_path: Path) -> None:
    """Round 1 starts from one model: captures are the undefended ones to the bit, the next model is not."""
    run(tmp_path / "none", "none")
    result = run(tmp_path / "dp", "dp-server:noise_multiplier=1,clipping_norm=0.1")
    for client in range(CLIENTS):
        bare, seen = update(tmp_path / "none", 1, client), update(tmp_path / "dp", 1, client)
        assert all(torch.equal(seen.received[name], tensor) for name, tensor in bare.received.items())
    sent = [update(tmp_path / part, 2, 0).sent for part in ("none", "dp")]
    noise = torch.cat([(sent[1][n] - sent[0][n]).flatten() for n in ("conv.weight", "head.weight")])
    assert float(noise.std()) == pytest.approx(0.1 / CLIENTS, rel=0.2)
    assert len(result.rounds) == 3
    assert result.failures == ()


def test_under_dp_client_what_leaves_is_clipped_and_bare(tmp_path: Path) -> None:
    run(tmp_path / "none", "none", federation=toy_spec(rounds=1))
    run(tmp_path / "dp", "dp-client:noise_multiplier=1,clipping_norm=0.01", federation=toy_spec(rounds=1))
    for client in range(CLIENTS):
        bare, seen = update(tmp_path / "none", 1, client), update(tmp_path / "dp", 1, client)
        assert seen.config["clipping_norm"] == 0.01
        flat, raw = (torch.cat([d.flatten() for d in one.delta().values()]) for one in (seen, bare))
        assert float(flat.norm()) == pytest.approx(0.01, rel=1e-3)
        torch.testing.assert_close(flat / flat.norm(), raw / raw.norm(), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("key", ["num-examples", "train_loss"])
def test_the_mean_under_secagg_is_weighted_as_the_strategy_weighs(tmp_path: Path, key: str) -> None:
    """Flower's own FedAvg is the oracle: the model of round 2 is the mean of round 1."""
    whole = toy_spec(training=Training(batch_size=3))
    # Nobody evaluates: Flower wants the key in those replies too.
    untested = ToySplits(
        whole.splits.train, (torch.empty(0, dtype=torch.int64),) * CLIENTS, whole.splits.held_out
    )
    federation = replace(whole, splits=untested, strategy=f"fedavg:weighted_by_key={key}")
    run(tmp_path, "secagg", federation=federation)
    first, second = (update(tmp_path, number, EVERYONE) for number in (1, 2))
    weights = [part.weight for part in first.cohort]
    assert sum(weights) == pytest.approx(1)
    if key != "num-examples":
        assert max(weights) - min(weights) > 1e-3
    for name, mean in first.received.items():
        if mean.is_floating_point():
            torch.testing.assert_close(mean, second.sent[name], rtol=1e-5, atol=1e-6)


def test_under_secagg_the_mean_of_a_round_is_all_that_is_captured(tmp_path: Path) -> None:
    clients = NumpyClients()
    result = run(tmp_path, "secagg", federation=toy_spec(), client_app=clients.app())
    keys = list_captures(tmp_path / "captures", "d")
    assert [(key.round, key.client, key.stem) for key in keys] == [
        (1, EVERYONE, "r001-all"),
        (2, EVERYONE, "r002-all"),
    ]
    written = {path.name for path in (tmp_path / "captures" / "d").iterdir() if path.name.startswith("r")}
    assert written == {f"r00{number}-all.{end}" for number in (1, 2) for end in ("json", "safetensors")}
    for number in (1, 2):
        seen = update(tmp_path, number, EVERYONE)
        weights = [(3 + client) / sum(range(3, 3 + CLIENTS)) for client in range(CLIENTS)]
        assert [part.weight for part in seen.cohort] == pytest.approx(weights)
        assert [part.metrics["num-examples"] for part in seen.cohort] == [3, 4, 5, 6]
        assert seen.num_examples == 18
        for name, array in seen.received.items():
            mean = sum(w * clients.left[number, c][name].astype(np.float64) for c, w in enumerate(weights))
            expected = np.asarray(mean) if array.is_floating_point() else np.round(np.asarray(mean))
            np.testing.assert_allclose(array.numpy(), expected, rtol=1e-6, atol=1e-7)
    assert result.participation == dict.fromkeys(range(CLIENTS), 2)
    # what the strategy made of the same replies is that mean
    model = update(tmp_path, 2, EVERYONE).sent
    received = update(tmp_path, 1, EVERYONE).received
    for name in ("conv.weight", "scale", "norm.running_mean"):
        torch.testing.assert_close(model[name], received[name])


def test_secagg_keeps_the_truth_of_each_client_and_leaves_out_who_drops_out(tmp_path: Path) -> None:
    def broken(arrays: dict[str, np.ndarray], metrics: dict[str, Any]) -> None:
        arrays["conv.bias"] = np.full_like(arrays["conv.bias"], np.nan)

    def weightless(arrays: dict[str, np.ndarray], metrics: dict[str, Any]) -> None:
        metrics["num-examples"] = -1

    changes: dict[int, Callable[..., None]] = {1: broken, 3: weightless}
    clients = NumpyClients(changes=changes)
    result = run(tmp_path / "a", "secagg", federation=toy_spec(rounds=1), client_app=clients.app())
    seen = update(tmp_path / "a", 1, EVERYONE)
    assert [part.client for part in seen.cohort] == [0, 2]
    mean = (3 * clients.left[1, 0]["head.bias"] + 5 * clients.left[1, 2]["head.bias"]) / 8
    np.testing.assert_allclose(seen.received["head.bias"].numpy(), mean, rtol=1e-5)
    assert [failure.client for failure in result.failures] == [1]

    run(tmp_path / "b", "secagg", federation=toy_spec(rounds=1), attack_filter=lambda number, client: True)
    for client in range(CLIENTS):
        truth = read_truth(tmp_path / "b" / "truth", CaptureKey("d", 1, client))
        assert len(truth.images) == 4


def test_under_dp_client_with_secagg_all_clients_weigh_the_same(tmp_path: Path) -> None:
    clients = NumpyClients()
    spec = "dp-client:noise_multiplier=1e-6,clipping_norm=1e6+secagg"
    run(tmp_path, spec, federation=toy_spec(), client_app=clients.app())
    seen = update(tmp_path, 1, EVERYONE)
    assert [part.weight for part in seen.cohort] == [1 / CLIENTS] * CLIENTS
    mean = np.mean([clients.left[1, client]["head.weight"] for client in range(CLIENTS)], axis=0)
    np.testing.assert_allclose(seen.received["head.weight"].numpy(), mean, atol=1e-6)
    np.testing.assert_allclose(update(tmp_path, 2, EVERYONE).sent["head.weight"].numpy(), mean, atol=10)


def test_what_a_client_holds_back_leaves_in_a_later_round(tmp_path: Path) -> None:
    """Error feedback over a real federation, against the clients' own account of what they trained."""
    clients = NumpyClients()
    federation = toy_spec(rounds=3)
    run(tmp_path / "a", "topk:0.2", federation=federation, client_app=clients.app())
    for client in range(CLIENTS):
        for name in ("conv.weight", "head.bias"):
            held = np.zeros(1)
            for number in (1, 2, 3):
                seen = update(tmp_path / "a", number, client)
                sent = seen.sent[name].numpy().astype(np.float64)
                owed = clients.left[number, client][name] - sent + held
                left = seen.received[name].numpy() - sent
                kept = np.sort(np.abs(owed).flatten())[-int(np.ceil(0.2 * owed.size)) :]
                np.testing.assert_allclose(np.sort(np.abs(left).flatten())[-len(kept) :], kept, atol=1e-5)
                assert np.count_nonzero(left) == len(kept)
                held = np.where(left != 0, 0.0, owed)
    run(tmp_path / "b", "topk:0.2", federation=federation, client_app=NumpyClients().app())
    again = [update(tmp_path / part, 3, 2).received["head.weight"] for part in ("a", "b")]
    assert torch.equal(*again)  # a federation that starts again remembers nothing of the one before
