"""Weight files of SemSim: safetensors with a header that says what they are; checked before they are used.

The header of a file holds the format, its version, the backbone, the calibration and a SHA-256 over all
tensors, so that a truncated or altered file is refused. The packaged file's own SHA-256 is known here
besides.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from fl_audit.core.errors import MissingWeightsError
from fl_audit.core.files import write_bytes
from fl_audit.core.seeding import seeded_globals
from fl_audit.semsim.calibration import Calibration
from fl_audit.semsim.network import BACKBONES, Backbone, build

FORMAT = "fl-audit-semsim"
VERSION = "3"
"""Of what a file's calibration belongs to: the views that features are averaged over."""
NAME = "semsim-v8"
PACKAGED_SHA256 = "34fe61467c8836188747c7f27e015163e58c7da4989b66ee03892e0cae9af8af"
CARD = "fl_audit/semsim/weights/MODEL_CARD.md"
MAX_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Weights:
    """A trained SemSim.

    Attributes:
        backbone: which network.
        network: in eval mode.
        calibration: distance to probability.
        sha256: of the file; empty for weights that were never saved.
    """

    backbone: Backbone
    network: nn.Module
    calibration: Calibration
    sha256: str = ""


def packaged_path() -> Path:
    """The file that comes with the package."""
    return Path(str(files("fl_audit.semsim").joinpath("weights", f"{NAME}.safetensors")))


def card_path() -> Path:
    """Its model card: data, labels, recipe, figures, limits."""
    return packaged_path().with_name("MODEL_CARD.md")


@functools.lru_cache(maxsize=1)
def packaged() -> Weights:
    """The weights that come with the package.

    Raises:
        MissingWeightsError: the file is missing or not the one that was packaged.
    """
    return load(packaged_path(), sha256=PACKAGED_SHA256)


def save(path: Path, weights: Weights, notes: Mapping[str, str] | None = None) -> str:
    """Write a weight file in half precision, whole or not at all; its SHA-256.

    Args:
        path: where.
        weights: what.
        notes: further strings for the header, e.g. how it was trained.
    """
    tensors = {
        name: (value.half() if value.is_floating_point() else value).detach().cpu().contiguous()
        for name, value in weights.network.state_dict().items()
    }
    header = {
        **(notes or {}),
        "version": VERSION,
        "backbone": weights.backbone,
        "calibration": json.dumps(asdict(weights.calibration)),
        "tensors_sha256": _digest(tensors),
    }
    # One entry: safetensors writes several in no certain order, and equal weights shall give equal files.
    data = safetensors.torch.save(tensors, {FORMAT: json.dumps(header, sort_keys=True)})
    write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def load(path: Path, *, backbone: Backbone | None = None, sha256: str | None = None) -> Weights:
    """Read and check a weight file.

    Args:
        path: safetensors, from `save`.
        backbone: refuse any other.
        sha256: refuse a file with another one.

    Raises:
        MissingWeightsError: saying what was expected, what came, and how to fix it.
    """
    if path.is_symlink() or not path.is_file():
        raise MissingWeightsError(f"{path}: expected a SemSim weight file, found none")
    if path.stat().st_size > MAX_BYTES:
        raise MissingWeightsError(f"{path}: {path.stat().st_size} bytes, over the limit of {MAX_BYTES}")
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256:
        raise MissingWeightsError(
            f"{path}: its SHA-256 is {found[:16]}…, expected {sha256[:16]}…; the file was changed or cut "
            "short: reinstall fl-audit"
        )
    if data[:2] in (b"PK", b"\x80\x02", b"\x80\x04", b"\x80\x05"):
        raise MissingWeightsError(f"{path}: a pickle or zip, which can run code; expected safetensors")
    header, tensors = _parse(path, data)
    if header.get("version") != VERSION:
        raise MissingWeightsError(
            f"{path}: expected {FORMAT} version {VERSION}, got version {header.get('version')!r}"
        )
    kind = next((name for name in BACKBONES if name == header.get("backbone")), None)
    if kind is None or backbone not in (None, kind):
        raise MissingWeightsError(
            f"{path}: weights of the backbone {header.get('backbone')!r}, expected "
            f"{backbone or ' or '.join(BACKBONES)}"
        )
    if _digest(tensors) != header.get("tensors_sha256"):
        raise MissingWeightsError(f"{path}: the tensors are not those that were saved (SHA-256 differs)")
    return Weights(kind, _network(path, kind, tensors), _calibration(path, header), found)


def _parse(path: Path, data: bytes) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        tensors = safetensors.torch.load(data)
        size = int.from_bytes(data[:8], "little")
        entries = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    except (safetensors.SafetensorError, ValueError, KeyError, RecursionError) as error:
        raise MissingWeightsError(f"{path}: not a whole safetensors file ({error})") from None
    try:
        header = json.loads(entries[FORMAT])
    except (KeyError, ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise MissingWeightsError(f"{path}: safetensors, but not SemSim weights: no header {FORMAT!r}")
    return header, tensors


def _network(path: Path, backbone: Backbone, tensors: dict[str, Tensor]) -> nn.Module:
    with seeded_globals(0, "semsim"):  # the fresh weights are replaced at once
        network = build(backbone)
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    got = {name: tuple(value.shape) for name, value in tensors.items()}
    if expected != got:
        wrong = sorted(name for name in expected.keys() | got.keys() if expected.get(name) != got.get(name))
        raise MissingWeightsError(
            f"{path}: not the tensors of the backbone {backbone!r}: {', '.join(wrong[:5])}"
        )
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise MissingWeightsError(f"{path}: tensor {name!r} holds NaN or inf")
    network.load_state_dict(tensors)
    # Twice as fast on a CPU where channels are filtered one by one.
    network = network.to(memory_format=torch.channels_last)
    return network.eval().requires_grad_(False)


def _calibration(path: Path, header: Mapping[str, str]) -> Calibration:
    try:
        values = json.loads(header["calibration"])
        calibration = Calibration(float(values["intercept"]), float(values["slope"]))
    except (KeyError, TypeError, ValueError):
        raise MissingWeightsError(f"{path}: the header holds no calibration") from None
    if not (abs(calibration.intercept) < float("inf") and 0 < calibration.slope < float("inf")):
        raise MissingWeightsError(f"{path}: {calibration} does not fall with the distance")
    return calibration


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in the order of the names."""
    total = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        total.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        total.update(value.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
