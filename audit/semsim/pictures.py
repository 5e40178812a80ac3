"""Pictures for training: a class-folder tree inside a zip, read whole into uint8 tensors."""

import io
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from fl_audit.core.errors import MissingDataError
from fl_audit.core.images import from_pil, to_uint8

SIDE = 32
_CHUNK = 4096
"""Pixels: what SemSim sees of any image."""


@dataclass(frozen=True)
class Pictures:
    """Pictures of one data set.

    Attributes:
        name: for messages and the card.
        images: uint8 ``(N, 3, 32, 32)``.
        classes: int64 ``(N,)``.
        weight: how often training draws from it, beside other data sets.
    """

    name: str
    images: Tensor
    classes: Tensor
    weight: float = 1.0

    def floats(self, rows: Tensor) -> Tensor:
        """The rows as float32 in [0, 1]."""
        return self.images[rows].float() / 255.0

    def part(self, rows: Tensor) -> "Pictures":
        """Some of them."""
        return replace(self, images=self.images[rows], classes=self.classes[rows])


def read_zip(path: Path, folder: str, name: str) -> Pictures:
    """Read every image below ``folder`` of a zip; the folder that an image lies in is its class.

    Larger images are scaled down to 32x32 (antialiased).

    Raises:
        MissingDataError: there is no such zip, or nothing in it.
    """
    if not path.is_file():
        raise MissingDataError(f"{path}: expected the data set {name}, found no such file")
    images, names = [], []
    with zipfile.ZipFile(path) as archive:
        for entry in sorted(archive.namelist()):
            inside = PurePosixPath(entry)
            if entry.startswith(folder) and inside.suffix.lower() in (".jpg", ".jpeg", ".png"):
                with Image.open(io.BytesIO(archive.read(entry))) as image:
                    images.append(small_uint8(from_pil(image, 3)))
                names.append(inside.parent.name)
    if not images:
        raise MissingDataError(f"{path}: no image lies below {folder!r}")
    known = {label: number for number, label in enumerate(sorted(set(names)))}
    return Pictures(name, torch.stack(images), torch.tensor([known[label] for label in names]))


def small_uint8(image: Tensor) -> Tensor:
    """One float ``(3, H, W)`` image in [0, 1] as uint8 ``(3, 32, 32)``."""
    if image.shape[1:] != (SIDE, SIDE):
        image = interpolate(image[None], (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)[
            0
        ]
    return torch.from_numpy(to_uint8(image)).permute(2, 0, 1).contiguous()


def without(pictures: Pictures, others: Tensor, nearer_than: float = 0.004) -> Pictures:
    """The pictures but those that occur among ``others``, up to resampling and compression.

    Args:
        pictures: of one data set.
        others: uint8 ``(M, 3, 32, 32)``.
        nearer_than: mean squared error, pixels in [0, 1], under which two pictures are the same.
    """
    targets = others.float().flatten(1) / 255
    kept = []
    for start in range(0, len(pictures.images), _CHUNK):
        own = pictures.images[start : start + _CHUNK].float().flatten(1) / 255
        kept.append((torch.cdist(own, targets).square() / own.shape[1]).amin(1) >= nearer_than)
    return pictures.part(torch.cat(kept))


def split(pictures: Pictures, share: float, generator: torch.Generator) -> tuple[Pictures, Pictures]:
    """At random into the larger part and ``share`` of them."""
    order = torch.randperm(len(pictures.images), generator=generator)
    cut = round(share * len(order))
    return pictures.part(order[cut:]), pictures.part(order[:cut])


def as_uint8(images: Tensor) -> Tensor:
    """Images in [0, 1] as uint8 of the same shape, rounded."""
    return (images * 255).round().to(torch.uint8)
