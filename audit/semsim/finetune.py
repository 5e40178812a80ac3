"""Training on people's answers, from the packaged weights on or from scratch; calibrated on others."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_audit.core.errors import ConfigError
from fl_audit.core.progress import Progress
from fl_audit.core.seeding import torch_generator
from fl_audit.semsim.annotations import Annotations
from fl_audit.semsim.calibration import fit
from fl_audit.semsim.evaluation import Agreement, agreement
from fl_audit.semsim.network import Backbone, distance
from fl_audit.semsim.train import Batch, Loss, Schedule, train
from fl_audit.semsim.weights import Weights, packaged

HELD_OUT = 0.2
"""Share of the originals, with all their pairs, that calibrates and measures; more of few answers."""
DRAWS = 50
"""Draws of as many originals before one more is kept out."""
FINE = 3e-4
"""Highest learning rate from the packaged weights on."""


@dataclass(frozen=True)
class Trained:
    """New weights and what is known of them.

    Attributes:
        weights: the network with its calibration.
        before: agreement of the packaged weights with the answers kept out.
        after: agreement of the new ones. The calibration was fitted on the same pairs.
    """

    weights: Weights
    before: Agreement
    after: Agreement


def train_on_annotations(
    annotations: Annotations,
    *,
    backbone: Backbone | None = None,
    loss: Loss = "triplet",
    steps: int = 500,
    seed: int = 0,
    progress: Progress | None = None,
) -> Trained:
    """Train on answers.

    Args:
        annotations: from `read_annotations`.
        backbone: None goes on from the packaged weights, a name starts from scratch.
        loss: see `train`.
        steps: optimiser steps.
        seed: of everything drawn.
        progress: told of every step.

    Raises:
        ConfigError: too few pairs to keep some out with both answers among them.
    """
    kept, out = _split(annotations, seed)
    start = packaged()
    schedule = Schedule(steps=steps) if backbone else Schedule(steps=steps, rate=FINE)
    network = train(
        _batches(annotations, kept, torch_generator(seed, "annotations")),
        backbone=backbone or start.backbone,
        loss=loss,
        schedule=schedule,
        seed=seed,
        start=None if backbone else start.network,
        progress=progress,
    )
    originals, reconstructions = (
        images[out].float() / 255 for images in (annotations.originals, annotations.reconstructions)
    )
    answers = annotations.answers[out]
    new = distance(network, originals, reconstructions)
    calibration = fit(new, answers)
    return Trained(
        Weights(backbone or start.backbone, network, calibration),
        measure(start, annotations, out),
        agreement(new, answers, calibration),
    )


def measure(weights: Weights, annotations: Annotations, rows: Tensor | None = None) -> Agreement:
    """How far weights agree with the answers, on some rows or on all."""
    chosen = torch.arange(len(annotations.names)) if rows is None else rows
    found = distance(
        weights.network,
        annotations.originals[chosen].float() / 255,
        annotations.reconstructions[chosen].float() / 255,
    )
    return agreement(found, annotations.answers[chosen], weights.calibration)


def _split(annotations: Annotations, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to train on and rows kept out; the pairs of one original stay together."""
    keys = [image.numpy().tobytes() for image in annotations.originals]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    groups = torch.tensor([numbers[key] for key in keys])
    generator = torch_generator(seed, "annotations kept out")
    for amount in range(max(1, round(HELD_OUT * len(numbers))), len(numbers) // 2 + 1):
        for _ in range(DRAWS):
            order = torch.randperm(len(numbers), generator=generator)
            chosen = torch.isin(groups, order[:amount])
            if _both(annotations.answers[chosen]) and _both(annotations.answers[~chosen]):
                return (~chosen).nonzero().flatten(), chosen.nonzero().flatten()
    raise ConfigError(
        f"too few answers: {len(keys)} pairs of {len(numbers)} originals cannot be split by originals so "
        "that recognised and unrecognised ones are both in the part to train on and in the part kept out; "
        "annotate more originals"
    )


def _both(answers: Tensor) -> bool:
    """Whether there are recognised and unrecognised ones."""
    return bool((answers > 0.5).any()) and bool((answers < 0.5).any())


def _batches(annotations: Annotations, rows: Tensor, generator: torch.Generator) -> Iterator[Batch]:
    """Pairs, as many over as under 0.5, mirrored together at random; now and then a stranger."""
    answers = annotations.answers[rows]
    sides = [rows[answers > 0.5], rows[answers < 0.5], rows]
    while True:
        drawn = torch.cat([side[torch.randint(len(side), (24,), generator=generator)] for side in sides])
        originals = annotations.originals[drawn].float() / 255
        reconstructions = annotations.reconstructions[drawn].float() / 255
        grades = annotations.answers[drawn].clone()
        mirrored = torch.rand(len(drawn), generator=generator) < 0.5
        originals[mirrored], reconstructions[mirrored] = (
            originals[mirrored].flip(3),
            reconstructions[mirrored].flip(3),
        )
        if len(annotations.others):
            strange = (torch.rand(len(drawn), generator=generator) < 0.1).nonzero().flatten()
            picked = torch.randint(len(annotations.others), (len(strange),), generator=generator)
            reconstructions[strange] = annotations.others[picked].float() / 255
            grades[strange] = 0
        yield Batch(originals, reconstructions[:, None], grades[:, None])
