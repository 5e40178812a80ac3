"""What SemSim's training owes to its backbone, margin, loss, pictures, and to each thing it has seen.

    python examples/semsim_ablations.py --data DIR --steps 400
    python examples/semsim_ablations.py --data DIR --steps 400 --only left-out

DIR holds cifar10-jpeg.zip and caltech101-64.zip. Each row trains a network from scratch for as many steps, on
the pairs of the recipe's last stage, and prints how far its distance follows the held-out labels of the
recognisability oracle (a formula, not people). The rows named left-out train without one data set or one
kind of degradation and are measured on that alone; the reference, which has seen it, stands beside. 400 steps
are far from the packaged weights: compare rows with one another, not with the model card.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from fl_audit.core.errors import AuditError
from fl_audit.core.seeding import torch_generator
from fl_audit.semsim import BACKBONES, Backbone, Calibration, distance
from fl_audit.semsim.degradations import KINDS, Kinds
from fl_audit.semsim.evaluation import Agreement, agreement
from fl_audit.semsim.oracle import labels
from fl_audit.semsim.pairs import SIZE, batches
from fl_audit.semsim.pictures import Pictures
from fl_audit.semsim.recipe import picture_sets
from fl_audit.semsim.train import Loss, Schedule, train
from fl_audit.semsim.triplet import MARGIN

GROUPS = ("reference", "backbone", "margin", "loss", "pictures", "left-out")


@dataclass(frozen=True)
class Variant:
    """One row: how it trains, and what it is measured on (None: on everything)."""

    group: str
    name: str
    backbone: Backbone = "narrow"
    margin: float = MARGIN
    loss: Loss = "triplet"
    pictures: int | None = None
    data_set: str | None = None
    kind: str | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one row for each variant."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--pairs", type=int, default=1536, help="held-out pairs to measure on")
    parser.add_argument("--only", choices=GROUPS[1:], action="append", help="some groups of rows; repeat")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        training, held = picture_sets(options.data, options.seed)
    except AuditError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    reference = Variant("reference", "narrow, margin 1, triplet")
    whole = trained(reference, training, options.steps, options.seed)
    report(reference, measured(whole, reference, held, options.pairs, options.seed))
    for variant in variants([pictures.name for pictures in training], KINDS):
        if options.only and variant.group not in options.only:
            continue
        network = trained(variant, training, options.steps, options.seed)
        report(variant, measured(network, variant, held, options.pairs, options.seed))
        if variant.group == "left-out":
            beside = replace(variant, name=f"{variant.name}, seen")
            report(beside, measured(whole, beside, held, options.pairs, options.seed))
    return 0


def variants(data_sets: Sequence[str], kinds: Kinds) -> Iterator[Variant]:
    """Every row but the reference."""
    for backbone in BACKBONES:
        if backbone != Variant.backbone:
            yield Variant("backbone", backbone, backbone=backbone)
    for margin in (0.5, 2.0):
        yield Variant("margin", f"margin {margin:g}", margin=margin)
    yield Variant("loss", "contrastive", loss="contrastive")
    yield Variant("loss", "classification", loss="classification")
    for count in (500, 5000):
        yield Variant("pictures", f"{count} a data set", pictures=count)
    for name in data_sets:
        yield Variant("left-out", name, data_set=name)
    for kind, _ in kinds:
        yield Variant("left-out", kind.__name__, kind=kind.__name__)


def trained(variant: Variant, sets: Sequence[Pictures], steps: int, seed: int) -> nn.Module:
    """A network trained as the variant says."""
    seen = [pictures for pictures in sets if pictures.name != variant.data_set]
    if variant.pictures is not None:
        seen = [pictures.part(torch.arange(len(pictures.images))[: variant.pictures]) for pictures in seen]
    kinds = tuple((kind, weight) for kind, weight in KINDS if kind.__name__ != variant.kind)
    source = batches(seen, None, torch_generator(seed, "ablation"), kinds=kinds)
    return train(
        source,
        backbone=variant.backbone,
        loss=variant.loss,
        schedule=Schedule(steps=steps),
        seed=seed,
        margin=variant.margin,
    )


def measured(
    network: nn.Module, variant: Variant, held: Sequence[Pictures], pairs: int, seed: int
) -> Agreement:
    """Agreement with the oracle on held-out pictures; of a variant that left something out, on that alone."""
    shown = [pictures for pictures in held if variant.data_set in (None, pictures.name)]
    kinds = tuple((kind, weight) for kind, weight in KINDS if variant.kind in (None, kind.__name__))
    source = batches(shown, None, torch_generator(seed, "ablation, held out"), kinds=kinds)
    found, answers = [], []
    for batch in itertools.islice(source, -(-pairs // (2 * SIZE))):
        for column in (0, 1):
            found.append(distance(network, batch.originals, batch.reconstructions[:, column]))
            answers.append(labels(batch.grades[:, column]))
    return agreement(torch.cat(found), torch.cat(answers), Calibration(0.0, 1.0))


def report(variant: Variant, found: Agreement) -> None:
    """Print one row."""
    sys.stdout.write(
        f"{variant.group:10} {variant.name:28} {found.pairs} pairs: Spearman {found.spearman:.3f}, "
        f"AUC {found.auc:.4f}\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
