"""What the study compares: networks, how they were trained, and what the attacked client does."""

from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from fl_audit.core.training import Batch, Learner, TrainingHooks
from fl_audit.run.folder import slugs
from fl_audit.strategies.defenses import defenses

PLAIN, CROP = "plain", "crop"
PAD = 4
"""Pixels around an image of 32 that a crop may show (He et al., CVPR 2016, section 4.2)."""


@dataclass(frozen=True)
class Way:
    """One way to train and to defend.

    Attributes:
        name: as ``--setting`` takes it.
        augmentation: what the network saw before the attack: plain images, crops, or what a defense makes.
        defense: spec of what the attacked client does; ``none`` where it just trains.
    """

    name: str
    augmentation: str
    defense: str


WAYS = (
    Way("plain", PLAIN, "none"),
    Way("crop", CROP, "none"),
    Way("ats-3-1-7", "ats:3-1-7", "ats:3-1-7"),
    Way("ats-43-18-18", "ats:43-18-18", "ats:43-18-18"),
    Way("ats-both", "ats:both", "ats:both"),
    Way("prune-70", PLAIN, "prune:0.7"),
    Way("noise-1e-3", PLAIN, "noise:1e-3"),
)


@dataclass(frozen=True)
class Setting:
    """One row of the study: a network of ``fl_audit.models`` and a way."""

    model: str
    way: Way

    @property
    def slug(self) -> str:
        """Its folder."""
        (name,) = slugs([f"{self.model}-{self.way.name}"]).values()
        return name

    def __str__(self) -> str:
        return f"{self.model} / {self.way.name}"


class Crop(TrainingHooks):
    """Ordinary augmentation: each image mirrored half the time, then cropped out of a black frame."""

    def batch(self, batch: Batch, learner: Learner, *, rng: torch.Generator) -> Batch:
        """Views drawn for each image."""
        del learner
        count, _, height, width = batch.images.shape
        rows, columns = torch.randint(2 * PAD + 1, (2, count), generator=rng).tolist()
        mirrored = (torch.rand(count, generator=rng) < 0.5).tolist()
        views = [
            (image.flip(2) if turned else image)[:, top : top + height, left : left + width]
            for image, turned, top, left in zip(
                pad(batch.images, (PAD,) * 4), mirrored, rows, columns, strict=True
            )
        ]
        return Batch(torch.stack(views), batch.labels, batch.originals)


def hooks(augmentation: str) -> TrainingHooks:
    """What acts on the batches of the training before the attack."""
    if augmentation == PLAIN:
        return TrainingHooks()
    return Crop() if augmentation == CROP else defenses.create(augmentation)
