"""The negative control: what a guess scores, so that "PSNR 12 dB" can be read.

Two guesses that need no update: the mean image of held-out data, and another image of the same class.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_audit.core.captures import list_captures
from fl_audit.core.errors import AuditError, CaptureError
from fl_audit.core.files import read_tensors, write_tensors
from fl_audit.core.seeding import derive_seed
from fl_audit.core.units import ImageData
from fl_audit.metrics import Metric, negative_guesses
from fl_audit.run.config import RunConfig
from fl_audit.run.folder import RunFolder, slugs
from fl_audit.run.originals import originals

POOL_LIMIT = 512
"""Held-out images kept for guessing; enough for a mean and for another image of each class."""


@dataclass(frozen=True)
class NegativeControl:
    """Scores of guesses: kind of guess to metric to float64 ``(N,)``; empty without ground truth."""

    scores: dict[str, dict[str, Tensor]]

    def values(self, metric: str) -> Tensor:
        """What the guesses of all kinds score by one metric, float64 ``(M,)``; NaN where unscored."""
        values = [scores[metric] for scores in self.scores.values()]
        return torch.cat(values) if values else torch.empty(0, dtype=torch.float64)


def write_pool(folder: RunFolder, data: ImageData, held_out: Tensor) -> None:
    """Keep held-out images beside the truth, so that grading needs no data set.

    Raises:
        AuditError: other images are there already. The data set is not what it was when this run began, or
            in the run that its baseline was taken from, and what was captured since would not be comparable.
    """
    path, rows = folder.truth / "pool.safetensors", held_out[:POOL_LIMIT]
    pool = {"images": data.images[rows], "labels": data.labels[rows]}
    if path.is_file():
        before = read_tensors(path)
        if before.keys() != pool.keys() or not all(torch.equal(before[name], pool[name]) for name in pool):
            raise AuditError(
                f"the data set is not what it was when {path} was written: its held-out images differ. "
                "Restore it, or start a run of its own in a new folder"
            )
        return
    write_tensors(path, pool)


def negative_control(folder: RunFolder, config: RunConfig, units: Mapping[str, Metric]) -> NegativeControl:
    """Score guesses for every attacked original of the first defense that has any.

    Metrics that want more than the images are left out: a guess belongs to no update.
    """
    images, labels = _originals(folder, config)
    if images is None or labels is None:
        return NegativeControl({})
    pool = read_tensors(folder.truth / "pool.safetensors")
    seed = derive_seed(config.seed, "negative")
    guesses = negative_guesses(images, labels, pool["images"], pool["labels"], seed)
    return NegativeControl(
        {
            kind: {
                name: unit.score(images, guessed)
                for name, unit in units.items()
                if unit.per_image and not unit.wants
            }
            for kind, guessed in guesses.items()
        }
    )


def _originals(folder: RunFolder, config: RunConfig) -> tuple[Tensor, Tensor] | tuple[None, None]:
    for slug in slugs(config.defense_specs()).values():
        found = []
        for key in list_captures(folder.captures, slug):
            try:
                found.append(originals(folder, key))
            except CaptureError:
                continue  # that capture's findings say that its truth is missing
        if found:
            return torch.cat([part.images for part in found]), torch.cat([part.labels for part in found])
    return None, None
