"""The captures and the sealed truth of a run folder: one update or one truth per file pair.

Layout below ``RUN/captures/DEFENSE``: ``r003-c02.json`` with what travelled in clear and the names,
``r003-c02.safetensors`` with the arrays received, and ``sent-HASH.safetensors`` with the global model,
once for all the clients that got it. Truth lies apart, in ``RUN/truth/DEFENSE/r003-c02.safetensors``.
Under secure aggregation a round has one capture, ``r003-all``, and a truth for each of its clients.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import safetensors
import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor

from fl_audit.core.durable import DiskQueue
from fl_audit.core.errors import CaptureError
from fl_audit.core.files import read_model, read_tensors, write_json, write_tensors
from fl_audit.core.types import (
    EVERYONE,
    CaptureKey,
    Contribution,
    GroundTruth,
    Scalar,
    TrainingDetails,
    Update,
)

_STEM = re.compile(r"r(\d{3,})-(?:c(\d{2,})|all)")
_TRAINING = TypeAdapter(TrainingDetails)


class _Part(BaseModel):
    """A client of an aggregate. Strict, as `_Clear`."""

    model_config = ConfigDict(extra="forbid")

    client: int = Field(ge=0)
    weight: float = Field(gt=0, le=1)
    metrics: dict[str, Scalar | None]


NO_IMAGES = "chance drew no image in this round (Poisson sampling): what was sent holds none"


class NoImages(CaptureError):
    """An update that was made of no image: there is nothing in it to leak."""


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
    cohort: list[_Part] = []
    sha256: str


class _Unavailable(BaseModel):
    """Why there is no truth of a capture, in its place."""

    model_config = ConfigDict(extra="forbid")

    unavailable: str


def write_unavailable(root: Path, key: CaptureKey, reason: str) -> None:
    """Write down, below ``root`` (``RUN/truth``), why there is no truth of one capture."""
    write_json(root / key.defense / f"{key.stem}.json", {"unavailable": reason})


def write_update(
    root: Path, update: Update, *, sent_digest: str | None = None, later: DiskQueue | None = None
) -> None:
    """Write one capture below ``root`` (``RUN/captures``); the JSON last, so a half capture has none.

    Args:
        root: where captures lie.
        update: what is captured.
        sent_digest: `digest_of` what was sent, where it is known already.
        later: brings the files to the disk; None: they are there when this returns.
    """
    folder = root / update.key.defense
    sent_file = write_sent(root, update, sent_digest or digest_of(update.sent), later=later)
    with ThreadPoolExecutor(1) as beside:  # one core hashes while the disk takes the file
        hashed = beside.submit(digest_of, update.received)
        write_tensors(folder / f"{update.key.stem}.safetensors", update.received, later=later)
    clear = _Clear(
        node_id=update.node_id,
        sent=sent_file.name,
        sent_names=list(update.sent),
        received_names=list(update.received),
        config=dict(update.config),
        metrics=_stored(update.metrics),
        error=update.error,
        cohort=[
            _Part(client=part.client, weight=part.weight, metrics=_stored(part.metrics))
            for part in update.cohort
        ],
        sha256=hashed.result(),
    )
    write_json(folder / f"{update.key.stem}.json", clear.model_dump(), later=later)


def write_sent(root: Path, update: Update, digest: str, *, later: DiskQueue | None = None) -> Path:
    """Write the model that a client was sent unless it is there; ``digest`` is `digest_of` it."""
    path = root / update.key.defense / f"sent-{digest[:16]}.safetensors"
    if not path.exists():
        write_tensors(path, update.sent, later=later)
    return path


def read_update(root: Path, key: CaptureKey) -> Update:
    """Read one capture; a `CaptureError` names the file that is missing, damaged or tampered with."""
    folder = root / key.defense
    path = folder / f"{key.stem}.json"
    clear = read_model(path, _Clear, "a capture")
    sent = _read_sent(folder, clear, path)
    arrays = folder / f"{key.stem}.safetensors"
    received = _read_named(arrays, clear.received_names, path)
    if digest_of(received) != clear.sha256:
        raise CaptureError(
            f"{arrays}: contents differ from the hash in {path.name}; tampered with or damaged"
        )
    metrics, cohort = _metrics(clear.metrics), _cohort(clear)
    return Update(key, clear.node_id, sent, received, clear.config, metrics, clear.error, cohort)


def sent_file(root: Path, key: CaptureKey) -> Path:
    """The file of the model that one client was sent; the clients of a round mostly share it.

    Raises:
        CaptureError: the capture's JSON is missing or damaged.
    """
    folder = root / key.defense
    return folder / read_model(folder / f"{key.stem}.json", _Clear, "a capture").sent


def read_cohort(root: Path, key: CaptureKey) -> tuple[Contribution, ...]:
    """The clients of an aggregate, without its arrays; raises as `read_update` does."""
    clear = read_model(root / key.defense / f"{key.stem}.json", _Clear, "a capture")
    return _cohort(clear)


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
    """Open the sealed truth of one capture. For the grader, and for granting what the threat model grants.

    Raises:
        NoImages: the client used no image.
        CaptureError: there is none, or it is damaged.
    """
    path = root / key.defense / f"{key.stem}.safetensors"
    if not path.exists() and path.with_suffix(".json").exists():
        reason = read_model(path.with_suffix(".json"), _Unavailable, "a reason").unavailable
        raise NoImages(reason) if reason == NO_IMAGES else CaptureError(reason)
    tensors = read_tensors(path)
    try:
        with safetensors.safe_open(path, "pt") as file:
            training = _TRAINING.validate_json((file.metadata() or {})["training"])
        return GroundTruth(training=training, **tensors)
    except (KeyError, TypeError, ValidationError) as error:
        raise CaptureError(f"{path}: not a truth file") from error


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in order."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{len(name)}:{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_sent(folder: Path, clear: _Clear, path: Path) -> dict[str, Tensor]:
    sent = _read_named(folder / clear.sent, clear.sent_names, path)
    if f"sent-{digest_of(sent)[:16]}.safetensors" != clear.sent:
        raise CaptureError(f"{folder / clear.sent}: contents differ from its name; tampered with or damaged")
    return sent


def _read_named(file: Path, names: list[str], path: Path) -> dict[str, Tensor]:
    """The tensors of ``file`` in the order that the JSON at ``path`` lists."""
    found = read_tensors(file)
    if sorted(names) != sorted(found):
        raise CaptureError(f"{file}: holds other arrays than {path.name} lists")
    return {name: found[name] for name in names}


def _cohort(clear: _Clear) -> tuple[Contribution, ...]:
    return tuple(Contribution(part.client, part.weight, _metrics(part.metrics)) for part in clear.cohort)


def _keys(folder: Path, defense: str) -> Iterator[CaptureKey]:
    for path in folder.glob("r*-*.json"):
        match = _STEM.fullmatch(path.stem)
        if match:
            yield CaptureKey(defense, int(match[1]), EVERYONE if match[2] is None else int(match[2]))


def _stored(metrics: Mapping[str, Scalar]) -> dict[str, Scalar | None]:
    """JSON has no NaN: such a metric is stored as null and read back as NaN."""
    return {
        name: None if isinstance(value, float) and (value != value or abs(value) == float("inf")) else value
        for name, value in metrics.items()
    }


def _metrics(stored: Mapping[str, Scalar | None]) -> dict[str, Scalar]:
    return {name: float("nan") if value is None else value for name, value in stored.items()}
