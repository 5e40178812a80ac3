"""The judged pairs that SemSim is validated on and never trained on: judged-pairs.zip, where it is there."""

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from fl_audit.core.images import from_pil
from fl_audit.semsim.pictures import small_uint8


@dataclass(frozen=True)
class Judged:
    """Judged pairs of one part: images float32 ``(N, 3, 32, 32)`` in [0, 1], answers ``(N,)``."""

    originals: Tensor
    reconstructions: Tensor
    answers: Tensor


def judged_pairs(path: Path) -> dict[str, Judged]:
    """Judged pairs by part (``transformed-caltech101`` …); none where there is no such file."""
    if not path.is_file():
        return {}
    with zipfile.ZipFile(path) as archive:

        def image(name: str) -> Tensor:
            picture = Image.open(io.BytesIO(archive.read(f"judged-pairs/{name}.png")))
            return small_uint8(from_pil(picture, 3)).float() / 255

        parts: dict[str, list[tuple[str, float]]] = {}
        for pair in json.loads(archive.read("judged-pairs/labels.json"))["pairs"]:
            parts.setdefault(pair["id"].rsplit("-", 1)[0], []).append((pair["id"], float(pair["label"])))
        return {
            part: Judged(
                torch.stack([image(f"{name}_ori") for name, _ in pairs]),
                torch.stack([image(f"{name}_rec") for name, _ in pairs]),
                torch.tensor([answer for _, answer in pairs]),
            )
            for part, pairs in parts.items()
        }
