"""One row of examples/semsim_ablations.py: what it trains on, and what it is measured on."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from _semsim_shards import Fact, Shard
from torch import Tensor, nn

from fl_audit.core.seeding import torch_generator
from fl_audit.semsim import Backbone, Calibration, distance
from fl_audit.semsim.annotations import Annotations
from fl_audit.semsim.degradations import KINDS
from fl_audit.semsim.evaluation import Agreement, agreement
from fl_audit.semsim.finetune import train_on_annotations
from fl_audit.semsim.oracle import labels
from fl_audit.semsim.pairs import SIZE, batches
from fl_audit.semsim.pictures import Pictures, as_uint8
from fl_audit.semsim.reconstructions import Reconstructions
from fl_audit.semsim.train import Batch, Loss, Schedule, train
from fl_audit.semsim.triplet import MARGIN

DOUBT = 0.15
"""Standard deviation of a simulated annotator's opinion around the oracle's grade."""


@dataclass(frozen=True)
class Left:
    """What is left out of a training: a kind of degradation by name, or what shards say of themselves."""

    what: Literal["kind"] | Fact
    value: str


@dataclass(frozen=True)
class Variant:
    """One row: how it trains, and what it is measured on (nothing left out: on everything)."""

    group: str
    name: str
    backbone: Backbone = "lite"
    margin: float = MARGIN
    loss: Loss = "triplet"
    pictures: int | None = None
    annotations: int | None = None
    annotators: int = 1
    left: Left | None = None


@dataclass(frozen=True)
class Material:
    """What all rows share.

    Attributes:
        training: pictures to train on.
        held: others, to measure on.
        shards: real reconstructions; may be none.
        steps: of each training.
        pairs: at most so many to measure on.
        seed: of everything drawn.
    """

    training: Sequence[Pictures]
    held: Sequence[Pictures]
    shards: Sequence[Shard]
    steps: int
    pairs: int
    seed: int


def trained(variant: Variant, material: Material) -> nn.Module:
    """A network trained as the variant says."""
    source = _source(variant, material)
    if variant.annotations is not None:
        answers = annotated(source, variant.annotations, variant.annotators, material.seed)
        done = train_on_annotations(
            answers, backbone=variant.backbone, loss=variant.loss, steps=material.steps, seed=material.seed
        )
        return done.weights.network
    return train(
        source,
        backbone=variant.backbone,
        loss=variant.loss,
        schedule=Schedule(steps=material.steps),
        seed=material.seed,
        margin=variant.margin,
    )


def _source(variant: Variant, material: Material) -> Iterator[Batch]:
    left = variant.left or Left("kind", "")
    seen = [part for part in material.training if left != Left("data_set", part.name)]
    if variant.pictures is not None:
        seen = [part.part(torch.arange(len(part.images))[: variant.pictures]) for part in seen]
    kinds = tuple((kind, weight) for kind, weight in KINDS if left != Left("kind", kind.__name__))
    real = [shard.trained_on for shard in material.shards if not _is(shard, left)]
    return batches(
        seen,
        Reconstructions.joined(real) if real else None,
        torch_generator(material.seed, "ablation"),
        kinds=kinds,
    )


def annotated(source: Iterator[Batch], pairs: int, annotators: int, seed: int) -> Annotations:
    """So many pairs with the mean answer of simulated annotators."""
    drawn = list(itertools.islice(source, -(-pairs // (2 * SIZE))))
    originals = torch.cat([batch.originals.repeat_interleave(2, 0) for batch in drawn])[:pairs]
    made = torch.cat([batch.reconstructions.flatten(0, 1) for batch in drawn])[:pairs]
    grades = torch.cat([batch.grades.flatten() for batch in drawn])[:pairs]
    noise = torch.randn(annotators, pairs, generator=torch_generator(seed, "annotators"))
    answers = labels(grades + DOUBT * noise).mean(0)
    return Annotations(
        tuple(map(str, range(pairs))),
        as_uint8(originals),
        as_uint8(made),
        answers,
        torch.full((pairs,), annotators),
        torch.empty(0, *originals.shape[1:], dtype=torch.uint8),
    )


def measured(network: nn.Module, variant: Variant, material: Material) -> Agreement:
    """Agreement with the oracle; of a variant that left something out, on that alone."""
    left = variant.left
    if left is not None and left.what not in ("kind", "data_set"):
        real = Reconstructions.joined([shard.measured_on for shard in material.shards if _is(shard, left)])
        rows = torch.randperm(len(real.kept), generator=torch_generator(material.seed, "ablation, real"))
        return _of_reconstructions(network, real.part(rows[: material.pairs]))
    shown = [part for part in material.held if left is None or left.what == "kind" or left.value == part.name]
    kinds = tuple(
        (kind, weight)
        for kind, weight in KINDS
        if left is None or left.what != "kind" or left.value == kind.__name__
    )
    generator = torch_generator(material.seed, "ablation, held out")
    source = batches(shown, None, generator, kinds=kinds)
    found, answers = [], []
    for batch in itertools.islice(source, -(-material.pairs // (2 * SIZE))):
        for column in (0, 1):
            found.append(distance(network, batch.originals, batch.reconstructions[:, column]))
            answers.append(labels(batch.grades[:, column]))
    return _agreement(torch.cat(found), torch.cat(answers))


def _of_reconstructions(network: nn.Module, real: Reconstructions) -> Agreement:
    found = distance(network, real.original.float() / 255, real.reconstruction.float() / 255)
    return _agreement(found, labels(real.grades()))


def _agreement(distances: Tensor, answers: Tensor) -> Agreement:
    """Nothing is calibrated here."""
    return agreement(distances, answers, Calibration(0.0, 1.0))


def _is(shard: Shard, left: Left) -> bool:
    return left.what != "kind" and shard.facts[left.what] == left.value
