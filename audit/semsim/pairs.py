"""Graded pairs for training: pictures, a client's transformation, a degradation or a real reconstruction."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor

from fl_audit.core.errors import MissingDataError
from fl_audit.core.files import read_tensors
from fl_audit.semsim.degradations import degrade
from fl_audit.semsim.oracle import grade, transform_grade
from fl_audit.semsim.pictures import Pictures
from fl_audit.semsim.train import Batch
from fl_audit.semsim.transforms import luminance, random_transform

SIZE = 64
"""Originals in a batch."""
Emphasis = Literal["degradations", "transformations"]

REAL_SHARE = 0.3
"""Share of the originals of a batch whose first reconstruction is real, where there are real ones."""


@dataclass(frozen=True)
class Reconstructions:
    """Real reconstructions, from ``examples/semsim_reconstructions.py``.

    Attributes:
        original: uint8 ``(N, 3, 32, 32)``.
        victim: what the client trained on, in place under the reconstruction.
        reconstruction: what the attack gave.
        kept: how much of the original the client's transformation left, ``(N,)``.
    """

    original: Tensor
    victim: Tensor
    reconstruction: Tensor
    kept: Tensor

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read all shards of a folder."""
        shards = [read_tensors(path) for path in sorted(folder.glob("*.safetensors"))]
        if not shards:
            raise MissingDataError(
                f"{folder}: no *.safetensors; examples/semsim_reconstructions.py makes them"
            )
        names = ("original", "victim", "reconstruction", "kept")
        return cls(*(torch.cat([shard[name] for shard in shards]) for name in names))

    def part(self, rows: Tensor) -> "Reconstructions":
        """Some of them."""
        return Reconstructions(
            self.original[rows], self.victim[rows], self.reconstruction[rows], self.kept[rows]
        )

    def split(self, share: float) -> tuple["Reconstructions", "Reconstructions"]:
        """The first part, and ``share`` of them at the end: those came from other networks."""
        cut = round((1 - share) * len(self.kept))
        rows = torch.arange(len(self.kept))
        return self.part(rows[:cut]), self.part(rows[cut:])

    def grades(self) -> Tensor:
        """The oracle's grades, ``(N,)``."""
        return self.kept * grade(self.victim.float() / 255, self.reconstruction.float() / 255)


def batches(
    sets: Sequence[Pictures],
    real: Reconstructions | None,
    generator: torch.Generator,
    size: int = SIZE,
    emphasis: Emphasis = "degradations",
) -> Iterator[Batch]:
    """Endless batches: each original with two reconstructions of independent strengths.

    Args:
        sets: pictures, each set as likely as the others.
        real: real reconstructions to mix in.
        generator: CPU generator.
        size: originals in a batch.
        emphasis: degradations of all strengths, or lighter ones of images that were mostly transformed.
    """
    while True:
        counts = torch.multinomial(torch.ones(len(sets)), size, replacement=True, generator=generator)
        originals = torch.cat(
            [
                part.floats(torch.randint(len(part.images), (int((counts == n).sum()),), generator=generator))
                for n, part in enumerate(sets)
            ]
        )
        originals = _vary(originals, generator)
        found, grades = [], []
        for _ in range(2):
            reconstructions, seen = synthetic(originals, generator, emphasis)
            found.append(reconstructions)
            grades.append(seen)
        if real is not None:
            own = torch.randperm(size, generator=generator)[: round(REAL_SHARE * size)]
            drawn = real.part(torch.randint(len(real.kept), (len(own),), generator=generator))
            originals[own] = drawn.original.float() / 255
            found[0][own] = drawn.reconstruction.float() / 255
            grades[0][own] = drawn.grades()
            found[1][own], grades[1][own] = synthetic(originals[own], generator, emphasis)
        yield Batch(originals, torch.stack(found, 1), torch.stack(grades, 1))


def synthetic(
    originals: Tensor, generator: torch.Generator, emphasis: Emphasis = "degradations"
) -> tuple[Tensor, Tensor]:
    """One imitated reconstruction of each original, and the oracle's grades ``(N,)``."""
    strength = torch.rand(len(originals), generator=generator)
    if emphasis == "transformations":
        transformed = random_transform(originals, generator, share=0.9, moving=0.8)
        strength = strength**2
    else:
        transformed = random_transform(originals, generator)
    strength = torch.where(torch.rand(len(originals), generator=generator) < 0.08, 0.0, strength)
    spoiled = degrade(transformed.images, generator, strength)
    return spoiled, grade(transformed.images, spoiled) * transform_grade(transformed)


def _vary(originals: Tensor, generator: torch.Generator) -> Tensor:
    """Originals of more kinds than the data sets hold: some grey, some in other colours, turned or zoomed."""
    n = len(originals)
    originals = random_transform(originals, generator, share=0.3).images
    grey = torch.rand(n, generator=generator) < 0.12
    return torch.where(grey.view(-1, 1, 1, 1), luminance(originals).expand(-1, 3, -1, -1), originals)
