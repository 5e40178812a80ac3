"""The threat model, applied: what the attacker is told about one capture, written apart from the truth.

This is the only place besides the grader that opens the truth, and it copies out of it what the threat
model grants and nothing else: labels, and how the client trained. The attack stage reads these files and
runs with the truth folder gone.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict

from fl_audit.core.files import read_model, write_json
from fl_audit.core.seeding import seeded_globals
from fl_audit.core.types import CaptureKey, GroundTruth, Knowledge, Sends, ThreatLevel, TrainingDetails
from fl_audit.run.config import ThreatConfig
from fl_audit.run.weights import model_spec


class Grant(BaseModel):
    """What is granted about one capture, as stored in ``knowledge/DEFENSE/r003-c02.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    level: ThreatLevel
    model: str | None = None
    loss: str | None = None
    num_classes: int | None = None
    image_shape: tuple[int, int, int] | None = None
    training: TrainingDetails | None = None
    labels: list[int] | None = None
    sends: Sends | None = None


def grant(
    threat: ThreatConfig,
    truth: GroundTruth | None,
    *,
    model: str,
    num_classes: int,
    image_shape: tuple[int, int, int],
) -> Grant:
    """Apply the threat model to one capture; ``truth`` is None where the operator has none."""
    values: dict[str, Any] = {"level": threat.level, "sends": threat.sends}
    if threat.level >= "B":
        values |= {
            "model": model,
            "loss": threat.loss,
            "num_classes": num_classes,
            "image_shape": image_shape,
        }
    if truth is not None and threat.level >= "C":
        values["training"] = truth.training
    if truth is not None and threat.labels:
        values["labels"] = truth.labels.tolist()
    return Grant(**values)


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
            model = model_spec(granted.model, path.parents[2]).build(granted.image_shape, granted.num_classes)
    labels = None if granted.labels is None else torch.tensor(granted.labels, dtype=torch.int64)
    return Knowledge(
        level=granted.level,
        model=model,
        loss=granted.loss,
        num_classes=granted.num_classes,
        image_shape=granted.image_shape,
        training=granted.training,
        labels=labels,
        sends=granted.sends,
    )
