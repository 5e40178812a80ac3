"""Defenses inside local training, in a federation: what they change of an update, and what truth stays."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_audit.core.captures import NO_IMAGES, NoImages, list_captures, read_truth, read_update
from fl_audit.core.errors import ConfigError
from fl_audit.core.training import Exposure, TrainingHooks
from fl_audit.core.types import CaptureKey, GroundTruth, Update
from fl_audit.federation import FederationSpec, Training, run_federation
from fl_audit.federation.runner import under
from fl_audit.federation.training import batches, train
from fl_audit.reports.schema import ClientFacts, Utility
from fl_audit.run.config import RunConfig, ThreatConfig
from fl_audit.run.folder import RunFolder
from fl_audit.run.grants import grant, read_knowledge, write_grant
from fl_audit.run.record import FederationRecord, defense_facts, write_record
from fl_audit.strategies.defenses import defenses
from tests.federation.toy import NumpyClients, TinySpec, toy_spec
from tests.strategies.training_cases import TRAINING

STEP = Training(learning_rate=0.5, batch_size=4, train_mode=True)


def run(out: Path, defense: str, **changes: Any) -> FederationSpec:
    values: dict[str, Any] = {"rounds": 1, "training": STEP}
    spec = toy_spec(**(values | changes))
    run_federation(spec, defense=defenses.create(defense), defense_slug="x", out=out)
    return spec


def captured(out: Path, client: int = 0, number: int = 1) -> tuple[Update, GroundTruth]:
    key = CaptureKey("x", number, client)
    return read_update(out / "captures", key), read_truth(out / "truth", key)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def gap(model: nn.Module, update: Update, images: Tensor, labels: Tensor) -> float:
    """How far an update is from one SGD step on ``images``, 0: the same; relative, over the parameters."""
    model.load_state_dict(dict(update.sent))
    model.train()
    loss = functional.cross_entropy(model(images), labels)
    steps = torch.autograd.grad(loss, list(model.parameters()))
    wanted = torch.cat([-STEP.learning_rate * step.flatten() for step in steps])
    delta = update.delta()
    sent = torch.cat([delta[name].flatten() for name, _ in model.named_parameters()])
    return float((sent - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("spec", TRAINING)
def test_what_is_graded_is_the_original_and_what_left_is_an_update(spec: str, tmp_path: Path) -> None:
    federation = run(tmp_path, spec)
    for key in list_captures(tmp_path / "captures", "x"):
        update, truth = captured(tmp_path, key.client)
        assert update.problem() is None
        own = federation.data.images[federation.train_indices(key.client)]
        assert int(truth.indices.min()) >= 0
        assert torch.equal(own[truth.indices], truth.images)
        names = list(under(federation, defenses.create(spec)).model.build((3, 8, 8), 3).state_dict())
        assert list(update.received) == names


@pytest.mark.parametrize("spec", ["ats", "dp-sgd", "mixup", "precode:size=8"])
def test_one_seed_gives_the_same_bytes(spec: str, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    for name in ("a", "b"):
        run(tmp_path / name, spec)
    assert torch.equal(torch.get_rng_state(), state)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    run(tmp_path / "c", spec, seed=4)
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


@pytest.mark.parametrize(
    ("spec", "least"),
    [
        ("none", 0),
        ("ats", 0.1),
        ("mixup", 0.01),
        ("soteria:0.9", 0.1),
        ("precode:size=8", 0.1),
        ("dp-sgd", 0.5),
    ],
)
def test_an_undefended_update_is_the_gradient_of_its_originals_and_a_defended_one_is_not(
    spec: str, least: float, tmp_path: Path
) -> None:
    """The attacker's objective at the true images: 0 without defense, and no longer under one."""
    federation = run(tmp_path, spec)
    update, truth = captured(tmp_path)
    model = under(federation, defenses.create(spec)).model.build((3, 8, 8), 3)
    found = gap(model, update, truth.images, truth.labels)
    assert found < 1e-4 if spec == "none" else found > least


def test_local_steps_and_frozen_statistics_show_in_what_leaves(tmp_path: Path) -> None:
    run(tmp_path / "plain", "none")
    run(tmp_path / "steps", "local-steps:5")
    run(tmp_path / "frozen", "freeze-bn")
    plain, _ = captured(tmp_path / "plain")
    frozen, _ = captured(tmp_path / "frozen")
    _, truth = captured(tmp_path / "steps")
    assert truth.training.local_steps == 5
    assert truth.steps.max() == 4
    assert not torch.equal(plain.received["norm.running_mean"], plain.sent["norm.running_mean"])
    assert torch.equal(frozen.received["norm.running_mean"], frozen.sent["norm.running_mean"])
    assert torch.equal(frozen.received["norm.num_batches_tracked"], frozen.sent["norm.num_batches_tracked"])
    assert not torch.equal(frozen.received["norm.weight"], frozen.sent["norm.weight"])


def test_soteria_sends_nothing_of_pruned_features(tmp_path: Path) -> None:
    run(tmp_path, "soteria:0.75")
    update, _ = captured(tmp_path)
    assert int((update.delta()["head.weight"] == 0).all(0).sum()) == 192


def test_dp_sgd_noise_shows_in_the_update_and_nothing_else_is_told(tmp_path: Path) -> None:
    run(tmp_path, "dp-sgd:noise_multiplier=20,clipping_norm=0.1")
    update, _ = captured(tmp_path)
    delta = torch.cat([value.flatten() for value in update.delta().values()])
    assert float(delta.std()) == pytest.approx(0.5 * 20 * 0.1 / 4, rel=0.1)
    assert dict(update.metrics) == {"num-examples": 8}  # all that the client holds, whatever was drawn


def test_an_empty_draw_is_noise_and_its_truth_says_so(tmp_path: Path) -> None:
    training = Training(batch_size=1, learning_rate=0.5)
    run(tmp_path, "dp-sgd", training=training, clients=8)
    empty = 0
    for key in list_captures(tmp_path / "captures", "x"):
        assert read_update(tmp_path / "captures", key).problem() is None
        if not (tmp_path / "truth" / "x" / f"{key.stem}.safetensors").exists():
            empty += 1
            with pytest.raises(NoImages, match=re.escape(NO_IMAGES)):
                read_truth(tmp_path / "truth", key)
    assert 0 < empty < 8


def test_poisson_batches_take_every_image_by_chance() -> None:
    training = Training(batch_size=3, local_steps=2000, sampling="poisson")
    drawn = list(batches(10, training, torch.Generator().manual_seed(0)))
    sizes = torch.tensor([len(rows) for rows in drawn]).double()
    assert float(sizes.mean()) == pytest.approx(3, abs=0.1)
    assert float(sizes.var()) == pytest.approx(10 * 0.3 * 0.7, rel=0.1)  # binomial
    counts = torch.bincount(torch.cat(drawn), minlength=10).double() / 2000
    assert float((counts - 0.3).abs().max()) < 0.05


def test_a_batch_of_its_own_does_not_change_undefended_training_with_fedprox() -> None:
    """FedProx's term is added before the step: the result is that of adding it to the loss."""
    torch.manual_seed(0)
    images, labels = torch.rand(6, 3, 8, 8), torch.randint(3, (6,))
    model = TinySpec().build((3, 8, 8), 3)
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    training = Training(learning_rate=0.1, local_steps=3, batch_size=6)
    train(
        *(model, images, labels, training, torch.Generator().manual_seed(0)),
        num_classes=3,
        defense=TrainingHooks(),
        rng=torch.Generator(),
        proximal_mu=0.8,
    )
    other = TinySpec().build((3, 8, 8), 3).eval()
    other.load_state_dict({**other.state_dict(), **start})
    for _ in range(3):
        loss = functional.cross_entropy(other(images), labels)
        for name, value in other.named_parameters():
            loss = loss + 0.4 * (value - start[name]).square().sum()
        for value, step in zip(
            other.parameters(), torch.autograd.grad(loss, list(other.parameters())), strict=True
        ):
            value.data -= 0.1 * step
    for name, value in other.named_parameters():
        torch.testing.assert_close(dict(model.named_parameters())[name], value, atol=1e-5, rtol=1e-4)


def test_somebody_elses_app_cannot_be_defended_in_its_training(tmp_path: Path) -> None:
    for spec in ("mixup", "dp-sgd"):
        with pytest.raises(ConfigError, match=f"{spec}.*inside local training"):
            run_federation(
                toy_spec(),
                defense=defenses.create(spec),
                defense_slug="x",
                out=tmp_path,
                client_app=NumpyClients().app(),
            )


@pytest.mark.parametrize("spec", ["precode:size=8", "dp-sgd", "freeze-bn"])
def test_the_attacker_builds_the_architecture_that_was_sent(spec: str, tmp_path: Path) -> None:
    """From the grant alone, in whatever process: the names and shapes are those of the capture."""
    federation = run(tmp_path, spec, model=Convolutional())
    update, truth = captured(tmp_path)
    shape = federation.data.image_shape
    told = grant(
        *(ThreatConfig(), truth),
        model="convnet:width=4",
        num_classes=3,
        image_shape=shape,
        altered_by=spec,
    )
    write_grant(tmp_path / "grant.json", told)
    model = read_knowledge(tmp_path / "grant.json", update.key).model
    assert model is not None
    model.load_state_dict(dict(update.sent))
    assert model.train(spec != "freeze-bn")(truth.images).shape == (len(truth.images), 3)


class Convolutional(TinySpec):
    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        from fl_audit.models import models

        return models.create("convnet:width=4").build(image_shape, num_classes)


def test_the_record_shows_epsilon_of_the_most_exposed_client(tmp_path: Path) -> None:
    config = RunConfig(defenses=["dp-sgd"], baseline=False)
    folder = RunFolder(tmp_path)
    exposures = [Exposure(0.1, 2), Exposure(0.5, 2), Exposure(0.5, 2)]
    record = FederationRecord(
        utility=Utility(),
        clients=[
            ClientFacts(client=client, rounds_participated=rounds) for client, rounds in enumerate((5, 3, 0))
        ],
        exposures=exposures,
    )
    write_record(folder.federation("dp-sgd"), record)
    (facts,) = defense_facts(folder, config)
    unit = defenses.create("dp-sgd")
    expected = []
    for exposure, rounds in zip(record.exposures, (5, 3, 0), strict=True):
        spent = unit.example_privacy(exposure, rounds=rounds, delta=1e-5)
        assert spent is not None
        expected.append(spent.epsilon)
    assert [client.epsilon for client in facts.clients] == expected
    assert expected[1] > expected[0] > expected[2] == 0
    assert facts.epsilon == expected[1]
    assert "one training image" in facts.privacy
    assert "over 3 rounds" in facts.privacy
    assert "PRV" in facts.privacy
    assert math.isfinite(facts.epsilon)
