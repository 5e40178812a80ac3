"""What all files of the report share: the strict model base and the words for states."""

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict

SCHEMA_VERSION: Literal[1] = 1

CONTROL = "control"
"""The name that the positive control's findings carry instead of a defense's."""

Status = Literal["graded", "attack-failed", "not-attempted", "client-failed", "unscored"]
FailedStatus = Literal["attack-failed", "not-attempted", "client-failed", "unscored"]

Scalar = bool | int | float | str


class Model(BaseModel):
    """Frozen, refuses unknown keys and refuses NaN and infinity: unmeasured is null with a reason."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


def _inside(value: str) -> str:
    path = PurePosixPath(value)
    if not value or path.is_absolute() or ".." in path.parts or "\\" in value or ":" in value:
        raise ValueError("expected a path inside the run folder, relative, with / and without ..")
    return value


RelativePath = Annotated[str, AfterValidator(_inside)]
"""Path of a file inside the run folder, relative to it, POSIX form."""


def rounded(value: float, digits: int = 6) -> float:
    """``value`` to so many significant digits: decimals would turn a small error into none at all."""
    return float(f"{value:.{digits}g}")
