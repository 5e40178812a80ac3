"""Real reconstructions for training, from ``examples/semsim_reconstructions.py``."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from fl_audit.core.errors import MissingDataError
from fl_audit.core.files import read_tensors
from fl_audit.semsim.oracle import UNRECOGNISABLE, grade


@dataclass(frozen=True)
class Reconstructions:
    """Real reconstructions, from ``examples/semsim_reconstructions.py``.

    Attributes:
        original: uint8 ``(N, 3, 32, 32)``.
        victim: what the client trained on, in place under the reconstruction.
        reconstruction: what the attack gave.
        kept: how much of the original's structure the client's transformation left, ``(N,)``.
        visible: share of the original's area in the victim's frame, ``(N,)``.
    """

    original: Tensor
    victim: Tensor
    reconstruction: Tensor
    kept: Tensor
    visible: Tensor

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read all shards of a folder."""
        shards = [cls.of(read_tensors(path)) for path in sorted(folder.glob("*.safetensors"))]
        if not shards:
            raise MissingDataError(
                f"{folder}: no *.safetensors; examples/semsim_reconstructions.py makes them"
            )
        return cls.joined(shards)

    @classmethod
    def joined(cls, parts: "Sequence[Reconstructions]") -> Self:
        """Several as one."""
        names = [field.name for field in fields(cls)]
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Self:
        """From what a shard holds.

        Raises:
            MissingDataError: something is lacking.
        """
        names = [field.name for field in fields(cls)]
        lacking = [name for name in names if name not in tensors]
        if lacking:
            raise MissingDataError(
                f"a shard of reconstructions lacks {', '.join(lacking)}; make it anew with "
                "examples/semsim_reconstructions.py"
            )
        return cls(*(tensors[name] for name in names))

    def part(self, rows: Tensor) -> "Reconstructions":
        """Some of them."""
        return Reconstructions(*(getattr(self, field.name)[rows] for field in fields(self)))

    def split(self, share: float) -> tuple["Reconstructions", "Reconstructions"]:
        """The first part, and ``share`` of them at the end: those came from other networks."""
        cut = round((1 - share) * len(self.kept))
        rows = torch.arange(len(self.kept))
        return self.part(rows[:cut]), self.part(rows[cut:])

    def grades(self) -> Tensor:
        """The oracle's grades, ``(N,)``."""
        own, victim, made = (part.float() / 255 for part in (self.original, self.victim, self.reconstruction))
        return grade(own, victim, made, self.visible, self.kept)

    def weights(self) -> Tensor:
        """Chances ``(N,)`` of being drawn that make half of the draws hold something: most attacks failed."""
        good = self.grades() > UNRECOGNISABLE
        shares = good.double().mean().clamp(1e-6, 1 - 1e-6)
        return torch.where(good, 1 / shares, 1 / (1 - shares))

    def varied(self, generator: torch.Generator) -> "Reconstructions":
        """Each row mirrored or not, its channels in some order; the three images alike."""
        change = alike(len(self.kept), generator)
        return replace(
            self,
            original=change(self.original),
            victim=change(self.victim),
            reconstruction=change(self.reconstruction),
        )


def alike(n: int, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """A mirroring or none and an order of the channels for each of ``n`` rows, the same for all images."""
    mirror = mirroring(n, generator)
    order = torch.rand(n, 3, generator=generator).argsort(1).view(-1, 3, 1, 1)

    def change(images: Tensor) -> Tensor:
        images = mirror(images)
        return images.gather(1, order.expand_as(images))

    return change


def mirroring(n: int, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """A mirroring or none for each of ``n`` rows, the same for all images."""
    mirrored = (torch.rand(n, generator=generator) < 0.5).view(-1, 1, 1, 1)
    return lambda images: torch.where(mirrored, images.flip(3), images)
