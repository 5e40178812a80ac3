"""What is known of a federation that ``audited(...)`` recorded, beside its captures."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from fl_audit.core.files import read_model, write_json

RECORDED = "recorded.json"
"""Name of the file beside the captures; without it nothing is known."""


class OwnDefense(BaseModel):
    """Something by which a federation protects its clients.

    Attributes:
        name: what it is called.
        detail: what it does, and its settings, in words.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(max_length=200)
    detail: str = Field(max_length=2000)


class RecordedFederation(BaseModel):
    """``captures/DEFENSE/recorded.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    own: list[OwnDefense] = []


def write_recorded(place: Path, own: list[OwnDefense]) -> None:
    """Write it into the folder of the captures."""
    write_json(place / RECORDED, RecordedFederation(own=own).model_dump(mode="json"))


def read_recorded(place: Path) -> list[OwnDefense]:
    """Read it; an empty list where there is none.

    Raises:
        CaptureError: it is damaged.
    """
    path = place / RECORDED
    if not path.is_file():
        return []
    return read_model(path, RecordedFederation, "what was recorded of a federation").own
