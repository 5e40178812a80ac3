"""What the server saw of one client in one round besides images, as it stands in ``summary.json``."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field

from fl_audit.reports._base import Model, Scalar


def _sayable(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


ClientScalar = Annotated[Scalar, BeforeValidator(_sayable)]
"""A value that a client sent in clear; NaN and infinity, which JSON lacks, become text."""

Measured = Literal["update_norm", "batch_norm", "labels"]


class BatchNormSeen(Model):
    """Running statistics of batch norm in an update: means and variances of the client's own data."""

    sent: int = Field(ge=0, description="running means and variances that the model has")
    came: int = Field(ge=0, description="of these, sent back by the client")
    moved: int = Field(ge=0, description="of these, changed: they then hold statistics of its data")
    furthest: float | None = Field(None, ge=0, description="largest change, relative to what was sent")
    steps: int | None = Field(None, description="local steps in train mode that the counters give away")


class LabelsMatch(Model):
    """Inferred labels held against the truth, by the grader."""

    right: int = Field(ge=0, description="images whose label is in the inferred mix, classes counted")
    images: int = Field(ge=0)
    exact: bool = Field(description="whether the whole mix is right")


class SeenRound(Model):
    """One update; ``unmeasured`` says of each null among norm, statistics and labels why."""

    round: int = Field(ge=1)
    num_examples: int | None = Field(None, ge=0, description="as the client says; null: it says nothing")
    metrics: dict[str, ClientScalar] = Field({}, description="scalars of the reply, in clear")
    error: str | None = Field(None, description="error text that the client sent")
    stack_trace: bool = Field(False, description="whether that text shows code, paths or addresses")
    update_norm: float | None = Field(None, ge=0, description="Euclidean, batch-norm statistics left out")
    batch_norm: BatchNormSeen | None = None
    labels: list[int] | None = Field(None, description="images of each class, inferred from the update")
    labels_match: LabelsMatch | None = Field(None, description="null without ground truth")
    unmeasured: dict[Measured, str] = {}

    @classmethod
    def unknown(cls, number: int, reason: str) -> Self:
        """Nothing could be read off; ``reason`` says why."""
        return cls(round=number, unmeasured=dict.fromkeys(("update_norm", "batch_norm", "labels"), reason))
