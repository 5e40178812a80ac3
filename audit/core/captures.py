"""The captures and the sealed truth of a run folder: one update or one truth per file pair.

Layout below ``RUN/captures/DEFENSE``: ``r003-c02.json`` with what travelled in clear and the names,
``r003-c02.safetensors`` with the arrays received, and ``sent-HASH.safetensors`` with the global model,
once for all the clients that got it. Truth lies apart, in ``RUN/truth/DEFENSE/r003-c02.safetensors``.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor

from fl_audit.core.errors import CaptureError
from fl_audit.core.files import buffer_of, read_model, read_tensors, write_json, write_tensors
from fl_audit.core.types import CaptureKey, GroundTruth, Scalar, TrainingDetails, Update

_STEM = re.compile(r"r(\d{3,})-c(\d{2,})")
_TRAINING = TypeAdapter(TrainingDetails)


class _Clear(BaseModel):
    """The JSON beside a capture. Strict: a capture comes from outside."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = Field(default=1, ge=1, le=1)
    node_id: int
    sent: str = Field(pattern=r"^sent-[0-9a-f]{16}\.safetensors$")
    sent_names: list[str]
    received_names: list[str]
    config: dict[str, Scalar]
    metrics: dict[str, Scalar | None]
    error: str | None
    sha256: str


def write_update(root: Path, update: Update, sent_digest: str | None = None) -> str:
    """Write one capture below ``root`` (``RUN/captures``); the JSON last, so a half capture has none.

    Returns:
        The digest of what was sent: give it as ``sent_digest`` with the next capture of the same model.
    """
    folder = root / update.key.defense
    digest = sent_digest or _digest(update.sent)
    sent_file = folder / f"sent-{digest[:16]}.safetensors"
    if not sent_file.exists():
        write_tensors(sent_file, update.sent)
    arrays = folder / f"{update.key.stem}.safetensors"
    write_tensors(arrays, update.received)
    clear = _Clear(
        node_id=update.node_id,
        sent=sent_file.name,
        sent_names=list(update.sent),
        received_names=list(update.received),
        config=dict(update.config),
        metrics={name: _finite(value) for name, value in update.metrics.items()},
        error=update.error,
        sha256=_digest(update.received),
    )
    write_json(folder / f"{update.key.stem}.json", clear.model_dump())
    return digest


def read_update(root: Path, key: CaptureKey) -> Update:
    """Read one capture; a `CaptureError` names the file that is missing, damaged or tampered with."""
    folder = root / key.defense
    path = folder / f"{key.stem}.json"
    clear = read_model(path, _Clear, "a capture")
    sent = _read_sent(folder, clear, path)
    arrays = folder / f"{key.stem}.safetensors"
    received = _read_named(arrays, clear.received_names, path)
    if _digest(received) != clear.sha256:
        raise CaptureError(
            f"{arrays}: contents differ from the hash in {path.name}; tampered with or damaged"
        )
    metrics = {name: float("nan") if value is None else value for name, value in clear.metrics.items()}
    return Update(key, clear.node_id, sent, received, clear.config, metrics, clear.error)


def sent_file(root: Path, key: CaptureKey) -> Path:
    """The file of the model that one client was sent; the clients of a round mostly share it.

    Raises:
        CaptureError: the capture's JSON is missing or damaged.
    """
    folder = root / key.defense
    return folder / read_model(folder / f"{key.stem}.json", _Clear, "a capture").sent


def read_sent(root: Path, key: CaptureKey) -> dict[str, Tensor]:
    """The model that one client was sent, without what came back; raises as `read_update` does."""
    folder = root / key.defense
    path = folder / f"{key.stem}.json"
    return _read_sent(folder, read_model(path, _Clear, "a capture"), path)


def list_captures(root: Path, defense: str) -> list[CaptureKey]:
    """Keys of all complete captures of one defense, by round and client."""
    return sorted(_keys(root / defense, defense), key=lambda key: (key.round, key.client))


def write_truth(root: Path, key: CaptureKey, truth: GroundTruth) -> None:
    """Write the sealed truth of one capture below ``root`` (``RUN/truth``)."""
    tensors = {"images": truth.images, "labels": truth.labels, "steps": truth.steps, "indices": truth.indices}
    write_tensors(
        root / key.defense / f"{key.stem}.safetensors",
        tensors,
        {"training": json.dumps(asdict(truth.training))},
    )


def read_truth(root: Path, key: CaptureKey) -> GroundTruth:
    """Open the sealed truth of one capture. For the grader, and for granting what the threat model grants."""
    path = root / key.defense / f"{key.stem}.safetensors"
    tensors = read_tensors(path)
    try:
        with safetensors.safe_open(path, "pt") as file:
            training = _TRAINING.validate_json((file.metadata() or {})["training"])
        return GroundTruth(training=training, **tensors)
    except (KeyError, TypeError, ValidationError) as error:
        raise CaptureError(f"{path}: not a truth file") from error


def _read_sent(folder: Path, clear: _Clear, path: Path) -> dict[str, Tensor]:
    sent = _read_named(folder / clear.sent, clear.sent_names, path)
    if f"sent-{_digest(sent)[:16]}.safetensors" != clear.sent:
        raise CaptureError(f"{folder / clear.sent}: contents differ from its name; tampered with or damaged")
    return sent


def _read_named(file: Path, names: list[str], path: Path) -> dict[str, Tensor]:
    """The tensors of ``file`` in the order that the JSON at ``path`` lists."""
    found = read_tensors(file)
    if sorted(names) != sorted(found):
        raise CaptureError(f"{file}: holds other arrays than {path.name} lists")
    return {name: found[name] for name in names}


def _keys(folder: Path, defense: str) -> Iterator[CaptureKey]:
    for path in folder.glob("r*-c*.json"):
        match = _STEM.fullmatch(path.stem)
        if match:
            yield CaptureKey(defense, int(match[1]), int(match[2]))


def _digest(tensors: Any) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in order."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{len(name)}:{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
        digest.update(buffer_of(tensor))
    return digest.hexdigest()


def _finite(value: Scalar) -> Scalar | None:
    """JSON has no NaN: such a metric is stored as null and read back as NaN."""
    return None if isinstance(value, float) and (value != value or abs(value) == float("inf")) else value
