"""The threat model, applied: what the attacker is told about one capture, written apart from the truth.

This is the only place besides the grader that opens the truth, and it copies out of it what the threat
model grants and nothing else: labels, and how the client trained. The attack stage reads these files and
runs with the truth folder gone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from fl_audit.core.files import read_model, write_json
from fl_audit.core.knowledge import Knowledge, Sends, Share, ThreatLevel
from fl_audit.core.seeding import seeded_globals
from fl_audit.core.types import CaptureKey, GroundTruth, TrainingDetails, Update, num_examples
from fl_audit.run.architecture import architecture
from fl_audit.run.config import ThreatConfig


class GrantedShare(BaseModel):
    """What is granted about one client of an aggregate; see `Share`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: float
    num_examples: int | None = None
    training: TrainingDetails | None = None
    labels: list[int] | None = None


class Grant(BaseModel):
    """What is granted about one capture, as stored in ``knowledge/DEFENSE/r003-c02.json``.

    ``altered_by`` names the defense where it makes another architecture of the model.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    level: ThreatLevel
    model: str | None = None
    altered_by: str | None = None
    loss: str | None = None
    num_classes: int | None = None
    image_shape: tuple[int, int, int] | None = None
    training: TrainingDetails | None = None
    labels: list[int] | None = None
    sends: Sends | None = None
    cohort: list[GrantedShare] = []


def grant(
    threat: ThreatConfig,
    truth: GroundTruth | None,
    *,
    model: str,
    num_classes: int,
    image_shape: tuple[int, int, int],
    altered_by: str | None = None,
) -> Grant:
    """Apply the threat model to one capture; ``truth`` is None where the operator has none."""
    values: dict[str, Any] = {"level": threat.level, "sends": threat.sends}
    if threat.level >= "B":
        values |= {
            "model": model,
            "altered_by": altered_by,
            "loss": threat.loss,
            "num_classes": num_classes,
            "image_shape": image_shape,
        }
    if truth is not None and threat.level >= "C":
        values["training"] = truth.training
    if truth is not None and threat.labels:
        values["labels"] = truth.labels.tolist()
    return Grant(**values)


def grant_capture(
    threat: ThreatConfig,
    update: Update,
    truths: Mapping[int, GroundTruth],
    *,
    model: str,
    num_classes: int,
    image_shape: tuple[int, int, int],
    altered_by: str | None = None,
) -> Grant:
    """Apply the threat model to a capture: one client's, or the mean of several clients' updates.

    In a mean, no threat level withholds who took part with which weight: that travels in clear.

    Args:
        threat: the threat model.
        update: the capture.
        truths: by client, those that there are.
        model: the architecture.
        num_classes: number of classes.
        image_shape: ``(C, H, W)``.
        altered_by: the defense where it makes another architecture of the model.
    """

    def apply(truth: GroundTruth | None) -> Grant:
        return grant(
            threat,
            truth,
            model=model,
            num_classes=num_classes,
            image_shape=image_shape,
            altered_by=altered_by,
        )

    if not update.cohort:
        return apply(truths.get(update.key.client))
    every = [apply(truths.get(part.client)) for part in update.cohort]
    trainings = [granted.training for granted in every]
    labels = [granted.labels for granted in every if granted.labels is not None]
    shares = [
        GrantedShare(
            weight=part.weight,
            num_examples=num_examples(part.metrics),
            training=granted.training,
            labels=granted.labels,
        )
        for part, granted in zip(update.cohort, every, strict=True)
    ]
    together = {
        "training": trainings[0] if None not in trainings else None,
        "labels": [label for one in labels for label in one] if len(labels) == len(shares) else None,
        "cohort": shares,
    }
    return apply(None).model_copy(update=together)


def write_grant(path: Path, granted: Grant) -> None:
    """Write one grant."""
    write_json(path, granted.model_dump(mode="json"))


def read_knowledge(path: Path, key: CaptureKey) -> Knowledge:
    """Read one grant and build the architecture it names.

    Raises:
        CaptureError: the file is missing or is not a grant.
    """
    granted = read_model(path, Grant, f"what was granted about {key}")
    model = None
    if granted.model is not None and granted.image_shape is not None and granted.num_classes is not None:
        # The weights drawn here are thrown away: the attack loads those that the server sent.
        with seeded_globals(0, "architecture"):
            spec = architecture(granted.model, granted.altered_by, path.parents[2])
            model = spec.build(granted.image_shape, granted.num_classes)
    return Knowledge(
        level=granted.level,
        model=model,
        loss=granted.loss,
        num_classes=granted.num_classes,
        image_shape=granted.image_shape,
        training=granted.training,
        labels=_tensor(granted.labels),
        sends=granted.sends,
        cohort=tuple(
            Share(share.weight, share.num_examples, share.training, _tensor(share.labels))
            for share in granted.cohort
        ),
    )


def _tensor(labels: list[int] | None) -> Tensor | None:
    return None if labels is None else torch.tensor(labels, dtype=torch.int64)
