import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message
from torch.nn import functional

from fl_audit.core.captures import list_captures, read_truth, read_update
from fl_audit.core.errors import ConfigError
from fl_audit.core.progress import Progress
from fl_audit.core.types import CaptureKey
from fl_audit.federation import (
    FederationResult,
    FederationSpec,
    Training,
    initial_model,
    local_engine,
    run_federation,
)
from fl_audit.federation.client_app import make_client_app
from fl_audit.federation.local_engine import LocalGrid
from fl_audit.strategies.defenses import defenses
from tests.federation.toy import CLIENTS, toy_spec


def run(
    out: Path, spec: FederationSpec | None = None, defense: str = "none", **options: Any
) -> FederationResult:
    slug = defense.partition(":")[0]
    return run_federation(
        spec or toy_spec(), defense=defenses.create(defense), defense_slug=slug, out=out, **options
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_one_step_is_minus_the_learning_rate_times_the_gradient_of_the_truth(tmp_path: Path) -> None:
    spec = toy_spec(training=Training(learning_rate=0.5, batch_size=3))
    result = run(tmp_path, spec)
    keys = list_captures(tmp_path / "captures", "none")
    assert [(key.round, key.client) for key in keys] == [(r, c) for r in (1, 2) for c in range(CLIENTS)]
    for key in keys:
        update, truth = read_update(tmp_path / "captures", key), read_truth(tmp_path / "truth", key)
        assert update.problem() is None
        assert truth.images.shape == (3, 3, 8, 8)
        assert truth.steps.tolist() == [0, 0, 0]
        own = spec.train_indices(key.client)[truth.indices]
        assert torch.equal(spec.data.images[own], truth.images)
        assert torch.equal(spec.data.labels[own], truth.labels)
        details = truth.training
        assert (details.learning_rate, details.local_steps, details.batch_size) == (0.5, 1, 3)
        assert (details.optimizer, details.train_mode, details.momentum) == ("sgd", False, 0.0)
        assert update.num_examples == 3

        model = spec.model.build(spec.data.image_shape, 3)
        model.load_state_dict(dict(update.sent))
        model.eval()
        functional.cross_entropy(model(truth.images), truth.labels).backward()  # type: ignore[no-untyped-call]
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            torch.testing.assert_close(update.delta()[name], -0.5 * parameter.grad, rtol=1e-4, atol=1e-6)
    assert result.failures == ()
    assert result.truth_unavailable == ()
    assert result.participation == dict.fromkeys(range(CLIENTS), 2)


def test_fedavg_averages_what_was_captured_and_the_next_round_starts_there(tmp_path: Path) -> None:
    spec = toy_spec()
    result = run(tmp_path, spec)
    root = tmp_path / "captures"
    first = [read_update(root, CaptureKey("none", 1, client)) for client in range(CLIENTS)]
    second = read_update(root, CaptureKey("none", 2, 0))
    initial = initial_model(spec).state_dict()
    for name, sent in second.sent.items():
        assert torch.equal(first[0].sent[name], initial[name])
        mean = torch.stack([update.received[name].double() for update in first]).mean(0)
        torch.testing.assert_close(sent.double(), mean)
    assert [u.round for u in result.rounds] == [0, 1, 2]
    assert set(result.rounds[1].client_accuracy) == set(range(CLIENTS))
    model = spec.model.build(spec.data.image_shape, 3).eval()
    model.load_state_dict(dict(result.weights))
    held = spec.splits.held_out
    with torch.no_grad():
        logits = model(spec.data.images[held])
    assert result.rounds[2].accuracy == float((logits.argmax(1) == spec.data.labels[held]).float().mean())
    assert result.rounds[2].loss == pytest.approx(
        float(functional.cross_entropy(logits, spec.data.labels[held])), rel=1e-5
    )


@pytest.mark.parametrize("defense", ["none", "dp"])
def test_one_seed_gives_the_same_bytes_and_draws_from_no_global_generator(
    tmp_path: Path, defense: str
) -> None:
    spec = toy_spec(fraction=0.5, clients=6, training=Training(local_steps=3, train_mode=True))
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]
    run(tmp_path / "a", spec, defense)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), states[2])
    random.seed(99)
    run(tmp_path / "b", spec, defense)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    run(tmp_path / "c", toy_spec(fraction=0.5, clients=6, seed=4), defense)
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


def test_local_epochs_use_every_image_once_per_epoch_in_order_of_use(tmp_path: Path) -> None:
    training = Training(local_steps=None, local_epochs=2, batch_size=3, momentum=0.9, weight_decay=0.01)
    run(tmp_path, toy_spec(training=training, rounds=1, images_per_client=7))
    truth = read_truth(tmp_path / "truth", CaptureKey("none", 1, 2))
    assert truth.steps.tolist() == [0, 0, 0, 1, 1, 1, 2, 3, 3, 3, 4, 4, 4, 5]
    assert sorted(truth.indices[:7].tolist()) == sorted(truth.indices[7:].tolist()) == list(range(7))
    assert truth.unique().images.shape[0] == 7
    assert truth.training.local_steps == 6
    assert (truth.training.momentum, truth.training.weight_decay) == (0.9, 0.01)
    assert read_update(tmp_path / "captures", CaptureKey("none", 1, 2)).num_examples == 7


def test_the_sampled_clients_are_those_that_are_captured(tmp_path: Path) -> None:
    result = run(tmp_path, toy_spec(clients=5, fraction=0.4, rounds=3))
    keys = list_captures(tmp_path / "captures", "none")
    assert len(keys) == 6
    assert result.participation == {c: sum(key.client == c for key in keys) for c in range(5)}


def test_the_filter_decides_what_is_written_and_changes_nothing_else(tmp_path: Path) -> None:
    everything = run(tmp_path / "all")
    some = run(tmp_path / "some", attack_filter=lambda number, client: number == 2 and client < 2)
    assert all(torch.equal(some.weights[n], tensor) for n, tensor in everything.weights.items())
    assert some.participation == everything.participation
    kept = {p.name for p in (tmp_path / "some" / "truth" / "none").iterdir()}
    assert kept == {"r002-c00.safetensors", "r002-c01.safetensors"}
    assert len(list_captures(tmp_path / "some" / "captures", "none")) == 2


def test_of_those_in_a_round_the_lowest_numbers_are_attacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grids: list[LocalGrid] = []

    class Kept(LocalGrid):
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **settings)
            grids.append(self)

    monkeypatch.setattr(local_engine, "LocalGrid", Kept)
    spec = toy_spec(clients=8, fraction=0.5, rounds=3)
    everything = run(tmp_path / "all", spec)
    some = run(tmp_path / "some", spec, attack_filter=lambda number, _: number != 2, attack_clients=2)
    assert all(torch.equal(some.weights[n], tensor) for n, tensor in everything.weights.items())
    took_part = list_captures(tmp_path / "all" / "captures", "none")
    expected = [key for number in (1, 3) for key in [k for k in took_part if k.round == number][:2]]
    assert list_captures(tmp_path / "some" / "captures", "none") == expected
    assert max(key.client for key in expected) > 1  # not just the lowest of all
    truths = {path.stem for path in (tmp_path / "some" / "truth" / "none").iterdir()}
    assert truths == {key.stem for key in expected}
    states = [context.state for context in grids[-1]._contexts.values()]
    assert len(states) == 8
    assert not any(states)  # no client still holds what nobody asked for


def test_a_defense_acts_on_what_leaves_and_on_nothing_else(tmp_path: Path) -> None:
    """Round 1 starts from one model, so the truth is the same and only the arrays differ."""
    bare, defended = tmp_path / "bare", tmp_path / "defended"
    run(bare, toy_spec(rounds=1))
    result = run(defended, toy_spec(rounds=1), "clip:0.01")
    assert result.rounds[1].client_accuracy  # evaluate replies pass
    for client in range(CLIENTS):
        key, other = CaptureKey("none", 1, client), CaptureKey("clip", 1, client)
        before, after = read_update(bare / "captures", key), read_update(defended / "captures", other)
        assert torch.equal(
            read_truth(bare / "truth", key).images, read_truth(defended / "truth", other).images
        )
        flat = torch.cat([d.flatten() for d in after.delta().values()])
        raw = torch.cat([d.flatten() for d in before.delta().values()])
        assert float(flat.norm()) == pytest.approx(0.01, rel=1e-3)
        assert float(raw.norm()) > 0.02
        torch.testing.assert_close(flat / flat.norm(), raw / raw.norm(), atol=1e-3, rtol=1e-3)
        assert dict(before.metrics) == dict(after.metrics)


def test_the_witness_and_the_wrapper_do_not_change_training(tmp_path: Path) -> None:
    spec = toy_spec(training=Training(local_steps=3, train_mode=True, momentum=0.5))
    watched = run(tmp_path / "a", spec)
    blind = run(tmp_path / "b", spec, attack_filter=lambda *_: False)
    assert all(torch.equal(blind.weights[name], tensor) for name, tensor in watched.weights.items())


def test_train_messages_carry_nothing_of_ours(tmp_path: Path) -> None:
    seen: list[tuple[str, dict[str, list[str]]]] = []
    spec = toy_spec(rounds=1)
    from fl_audit.federation._shared import Shared

    app = make_client_app(Shared(spec))

    class Spy(type(app)):  # type: ignore[misc]
        def __call__(self, message: Message, context: Context) -> Message:
            reply = app(message, context)
            for part in (message, reply):
                kind = part.metadata.message_type
                seen.append((kind, {name: list(record) for name, record in part.content.items()}))
            return reply

    run(tmp_path, spec, client_app=Spy())
    kinds = {kind for kind, _ in seen}
    assert kinds == {"train", "evaluate"}  # the queries stop at the wrapper
    names = list(spec.model.build((3, 8, 8), 3).state_dict())
    for kind, records in seen:
        if kind == "train":
            assert records["arrays"] == names
            assert set(records) == {"arrays", "config"} or set(records) == {"arrays", "metrics"}
            assert records.get("metrics", ["num-examples", "train_loss"]) == ["num-examples", "train_loss"]


def test_fedprox_tells_clients_its_mu(tmp_path: Path) -> None:
    training = Training(local_steps=4)
    plain = run(tmp_path / "a", toy_spec(training=training))
    pulled = run(tmp_path / "b", toy_spec(training=training, strategy="fedprox:1.0"))
    assert any(not torch.equal(plain.weights[name], tensor) for name, tensor in pulled.weights.items())
    assert read_update(tmp_path / "b" / "captures", CaptureKey("none", 1, 0)).config["proximal-mu"] == 1.0


@pytest.mark.parametrize(
    "strategy",
    ["fedadam", "fedadagrad", "fedyogi", "fedavgm", "fedmedian", "fedtrimmedavg", "krum", "bulyan"],
)
def test_every_named_strategy_runs(strategy: str, tmp_path: Path) -> None:
    result = run(tmp_path, toy_spec(strategy=strategy, rounds=1))
    assert len(result.rounds) == 2
    assert len(list_captures(tmp_path / "captures", "none")) == CLIENTS


def test_progress_is_told_of_every_round(tmp_path: Path) -> None:
    class Log(Progress):
        rounds = 0

        def advance(self) -> None:
            self.rounds += 1

    log = Log()
    run(tmp_path, progress=log)
    assert log.rounds == 2


def test_ctrl_c_passes_through(tmp_path: Path) -> None:
    class Stop(Progress):
        def advance(self) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, progress=Stop())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"clients": 0}, "clients: expected at least 1"),
        ({"rounds": 0}, "rounds: expected at least 1"),
        ({"fraction": 1.5}, "fraction: expected in"),
        ({"images_per_client": 0}, "images_per_client"),
        ({"engine": "cloud"}, "engine: expected local or ray"),
        ({"strategy": "fedavgg"}, "Did you mean 'fedavg'"),
        ({"splits": toy_spec(2).splits}, "2 parts for 4 clients"),
    ],
)
def test_impossible_federations_are_refused(changes: dict[str, Any], why: str, tmp_path: Path) -> None:
    base = toy_spec()
    with pytest.raises(ConfigError, match=why):
        run(tmp_path, FederationSpec(**(vars(base) | changes)))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"learning_rate": 0}, "learning_rate: expected over 0"),
        ({"momentum": 1.0}, "momentum"),
        ({"batch_size": 0}, "batch_size"),
        ({"local_steps": 0}, "at least 1"),
        ({"local_epochs": 1}, "exactly one of"),
    ],
)
def test_impossible_training_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Training(**changes)
