"""One line of ``findings.jsonl``: what one attack made of one image."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from fl_audit.core.errors import CaptureError
from fl_audit.core.files import write_text
from fl_audit.reports._base import SCHEMA_VERSION, Model, RelativePath, Status

MAX_FINDINGS = 2**30


class Finding(Model):
    """One attack on one image of one update. It holds no clock time: equal seeds give equal lines.

    ``status`` says how far it came: ``graded``: scored and judged. ``attack-failed``: the attack gave
    nothing for this image, which says nothing about the client's safety. ``not-attempted``: nor did it try,
    e.g. since more images were mixed into the update than it can tell apart. ``client-failed``: the client
    sent nothing that could be attacked. ``unscored``: there is a reconstruction but it could not be
    scored (no ground truth, values that are not numbers). All but ``graded`` carry a ``reason``.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    defense: str = Field(description="the defense as configured, e.g. prune:0.9; control: positive control")
    round: int = Field(ge=1, description="server round")
    client: int = Field(ge=0, description="partition id; in the positive control the number of the image")
    image: int | None = Field(ge=0, description="position among the client's images; null if not known")
    aggregate_of: int | None = Field(
        None, ge=1, description="clients in the mean that was attacked (secure aggregation); null: one update"
    )
    attack: str = Field(description="the attack as configured")
    status: Status
    reason: str | None = Field(None, description="why it is not graded; null if it is")
    label: int | None = Field(None, description="true label")
    label_inferred: int | None = Field(None, description="label the attacker worked with for this image")
    train_mode: bool | None = Field(None, description="whether the client's model ran in train mode")
    batch_size: int | None = Field(None, ge=1, description="images in one local step")
    local_steps: int | None = Field(None, ge=1, description="optimiser steps of the client in the round")
    metrics: dict[str, float | None] = Field({}, description="score by metric; null: see unmeasured")
    unmeasured: dict[str, str] = Field({}, description="reason by metric that has no score")
    p_recognisable: float | None = Field(None, ge=0, le=1, description="calibrated probability, if any")
    recognisable: bool | None = Field(None, description="the rule's verdict; null unless graded")
    original: RelativePath | None = Field(None, description="PNG of the original")
    reconstruction: RelativePath | None = Field(None, description="PNG of the reconstruction")
    objective: float | None = Field(None, description="the attacker's final objective; null if none")
    iterations: int = Field(0, ge=0, description="optimisation steps spent on the whole update")
    notes: list[str] = Field([], description="what the attacker assumed or noticed")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.status == "graded":
            if self.recognisable is None or self.reason is not None or self.image is None:
                raise ValueError("a graded finding has an image and a verdict (recognisable) and no reason")
        elif self.reason is None or self.recognisable is not None:
            raise ValueError(f"a finding that is {self.status} has a reason and no verdict")
        silent = [name for name, value in self.metrics.items() if value is None]
        silent = [name for name in silent if name not in self.unmeasured]
        if silent:
            raise ValueError(f"unmeasured without a reason: {', '.join(silent)}")
        return self


def write_findings(path: Path, findings: Iterable[Finding]) -> None:
    """Write ``findings.jsonl`` whole or not at all."""
    lines = (
        json.dumps(finding.model_dump(mode="json"), ensure_ascii=False, allow_nan=False)
        for finding in findings
    )
    write_text(path, "".join(f"{line}\n" for line in lines))


def read_findings(path: Path) -> list[Finding]:
    """Read ``findings.jsonl``.

    Raises:
        CaptureError: it is missing, too large, or a line is not a finding; names file and line.
    """
    if path.is_symlink() or not path.is_file():
        raise CaptureError(f"{path}: expected a file, found none. Grade the run first: fl-audit grade RUN")
    if path.stat().st_size > MAX_FINDINGS:
        raise CaptureError(f"{path}: {path.stat().st_size} bytes, over the limit of {MAX_FINDINGS}")
    findings = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    findings.append(Finding.model_validate_json(line))
                except ValidationError as error:
                    first = error.errors(include_url=False)[0]
                    where = ".".join(str(part) for part in first["loc"]) or "the line"
                    message = f"{path}, line {number}: {where}: {first['msg']}"
                    raise CaptureError(message) from None
    return findings
