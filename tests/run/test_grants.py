"""The threat model, applied: what is granted and what never is."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fl_audit.core.aggregates import mean_update
from fl_audit.core.errors import CaptureError
from fl_audit.core.files import write_json
from fl_audit.core.knowledge import Knowledge
from fl_audit.core.types import CaptureKey, GroundTruth, TrainingDetails
from fl_audit.run.check import granted_names
from fl_audit.run.config import ThreatConfig
from fl_audit.run.grants import grant, grant_capture, read_knowledge, write_grant

KEY = CaptureKey("dp", 1, 0)
TRUTH = GroundTruth(
    images=torch.full((3, 1, 8, 8), 0.123456),
    labels=torch.tensor([3, 3, 1]),
    steps=torch.zeros(3, dtype=torch.int64),
    indices=torch.tensor([7, 8, 9]),
    training=TrainingDetails(learning_rate=0.25, local_steps=1, batch_size=3, train_mode=True),
)


def granted(level: str, labels: bool, tmp_path: Path, truth: GroundTruth | None = TRUTH) -> set[str]:
    threat = ThreatConfig.model_validate({"level": level, "labels": labels})
    written = grant(threat, truth, model="mlp:width=4", num_classes=4, image_shape=(1, 8, 8))
    write_grant(tmp_path / "grant.json", written)
    assert "0.1234" not in (tmp_path / "grant.json").read_text(), "an image was granted"
    knowledge = read_knowledge(tmp_path / "grant.json", KEY)
    if truth is not None:
        assert knowledge.granted() == granted_names(threat), "the check before a run and the grant disagree"
    return set(knowledge.granted())


def test_each_level_grants_what_the_taxonomy_says(tmp_path: Path) -> None:
    informed = {"model", "loss", "num_classes", "image_shape"}
    assert granted("A", False, tmp_path) == set()
    assert granted("A", True, tmp_path) == {"labels"}
    assert granted("B", False, tmp_path) == informed
    assert granted("C", False, tmp_path) == informed | {"training"}
    assert granted("C", True, tmp_path) == informed | {"training", "labels"}


def test_without_truth_nothing_of_the_client_is_granted(tmp_path: Path) -> None:
    assert granted("C", True, tmp_path, truth=None) == {"model", "loss", "num_classes", "image_shape"}


def test_what_is_granted_is_true(tmp_path: Path) -> None:
    written = grant(ThreatConfig(), TRUTH, model="mlp:width=4", num_classes=4, image_shape=(1, 8, 8))
    write_grant(tmp_path / "grant.json", written)
    knowledge = read_knowledge(tmp_path / "grant.json", KEY)
    assert knowledge.training == TRUTH.training
    assert knowledge.labels is not None
    assert knowledge.labels.tolist() == [3, 3, 1]
    assert knowledge.model is not None
    assert knowledge.model(torch.rand(2, 1, 8, 8)).shape == (2, 4)


def test_a_grant_written_before_a_detail_was_recorded_is_read(tmp_path: Path) -> None:
    written = grant(ThreatConfig(), TRUTH, model="mlp:width=4", num_classes=4, image_shape=(1, 8, 8))
    facts = written.model_dump(mode="json")
    old = (
        "optimizer",
        "learning_rate",
        "momentum",
        "weight_decay",
        "local_steps",
        "batch_size",
        "train_mode",
    )
    facts["training"] = {name: facts["training"][name] for name in old}
    write_json(tmp_path / "grant.json", facts)
    assert read_knowledge(tmp_path / "grant.json", KEY).training == TRUTH.training


def test_the_loss_and_what_clients_send_are_granted_as_configured(tmp_path: Path) -> None:
    threat = ThreatConfig(loss="my:loss", sends="delta")
    knowledge = read_knowledge_of(threat, tmp_path)
    assert (knowledge.loss, knowledge.sends) == ("my:loss", "delta")
    assert read_knowledge_of(ThreatConfig(), tmp_path).sends is None


def read_knowledge_of(threat: ThreatConfig, folder: Path) -> Knowledge:
    written = grant(threat, TRUTH, model="mlp:width=4", num_classes=4, image_shape=(1, 8, 8))
    write_grant(folder / "grant.json", written)
    return read_knowledge(folder / "grant.json", KEY)


def test_reading_a_grant_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    write_grant(
        tmp_path / "grant.json",
        grant(ThreatConfig(), TRUTH, model="lenet", num_classes=2, image_shape=(1, 25, 25)),
    )
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    read_knowledge(tmp_path / "grant.json", KEY)
    assert torch.equal(torch.rand(3), expected)


def test_under_secure_aggregation_shares_are_never_withheld(
    tmp_path: Path,
) -> None:
    other = replace(TRUTH, labels=torch.tensor([0, 2, 2]), training=replace(TRUTH.training, batch_size=1))
    update = mean_update(
        "secagg",
        1,
        sent={},
        mean={},
        clients={0: {"num-examples": 3}, 2: {"num-examples": 1}, 5: {"num-examples": 4}},
    )
    truths = {0: TRUTH, 2: other, 5: TRUTH}

    def told(level: str, labels: bool, known: dict[int, GroundTruth]) -> Knowledge:
        threat = ThreatConfig.model_validate({"level": level, "labels": labels})
        shape = (1, 8, 8)
        written = grant_capture(threat, update, known, model="mlp:width=4", num_classes=4, image_shape=shape)
        write_grant(tmp_path / "grant.json", written)
        return read_knowledge(tmp_path / "grant.json", update.key)

    informed = told("B", False, truths)
    assert [(s.weight, s.num_examples, s.training, s.labels) for s in informed.cohort] == [
        (0.375, 3, None, None),
        (0.125, 1, None, None),
        (0.5, 4, None, None),
    ]
    assert (informed.training, informed.labels) == (None, None)
    everything = told("C", True, truths)
    assert [share.training for share in everything.cohort] == [TRUTH.training, other.training, TRUTH.training]
    assert everything.training == TRUTH.training
    assert everything.labels is not None
    assert everything.labels.tolist() == [3, 3, 1, 0, 2, 2, 3, 3, 1]
    part = told("C", True, {0: TRUTH, 2: other})  # of one client there is no truth to grant from
    assert (part.training, part.labels, part.cohort[2].training) == (None, None, None)
    assert part.cohort[1].labels is not None


def test_a_damaged_grant_is_named(tmp_path: Path) -> None:
    (tmp_path / "grant.json").write_text('{"level": "Z"}')
    with pytest.raises(CaptureError, match="grant.json"):
        read_knowledge(tmp_path / "grant.json", KEY)
