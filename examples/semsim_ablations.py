"""What SemSim's training owes to its backbone, margin, loss, data, labels, and to each thing it has seen.

    python examples/semsim_ablations.py --data DIR --steps 400
    python examples/semsim_ablations.py --data DIR --steps 400 --only left-out --reconstructions SHARDS

DIR holds cifar10-jpeg.zip and caltech101-64.zip. Each row trains a network from scratch for as many steps
(``lite`` and ``twin``: on a trunk from ImageNet), on pairs as the recipe makes them (none that were
looked at), and prints how far its distance follows the held-out labels of the recognisability oracle (not
people). 400 steps are far from the packaged weights: compare rows with one another, not with the model card.

- annotations: no more than so many labelled pairs, trained on as ``fl-audit semsim train`` does on people's
  answers. The annotators are simulated: the oracle's grade and a noise of 0.15, rounded to 0, 0.5 or 1.
- left-out: without one data set or one kind of degradation, and measured on that alone; the reference, which
  has seen it, stands beside. With SHARDS from examples/semsim_reconstructions.py mixed into the training of
  every row: also without the real reconstructions of one architecture, of one attack, and of networks in one
  state (fresh, trained), measured on those, of pictures that no row was trained on reconstructions of.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from _semsim_ablation import Left, Material, Variant, measured, trained
from _semsim_shards import FACTS, Shard, read_shards, values

from fl_audit.core.errors import AuditError
from fl_audit.semsim import BACKBONES
from fl_audit.semsim.degradations import KINDS, Kinds
from fl_audit.semsim.evaluation import Agreement
from fl_audit.semsim.material import picture_sets

GROUPS = ("reference", "backbone", "margin", "loss", "pictures", "annotations", "left-out")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one row for each variant."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        training, held = picture_sets(options.data)
        shards = [] if options.reconstructions is None else read_shards(options.reconstructions)
    except AuditError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    material = Material(training, held, shards, options.steps, options.pairs, options.seed)
    reference = Variant("reference", "lite, margin 1, triplet")
    whole = trained(reference, material)
    report(reference, measured(whole, reference, material))
    for variant in variants([pictures.name for pictures in training], KINDS, shards):
        if not _wanted(variant, options.only, options.row):
            continue
        network = trained(variant, material)
        report(variant, measured(network, variant, material))
        if variant.group == "left-out":
            beside = replace(variant, name=f"{variant.name}, seen")
            report(beside, measured(whole, beside, material))
    return 0


def variants(data_sets: Sequence[str], kinds: Kinds, shards: Sequence[Shard] = ()) -> Iterator[Variant]:
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
    for pairs in (250, 1000, 4000):
        yield Variant("annotations", f"{pairs} pairs, 1 annotator", annotations=pairs)
    for annotators in (3, 9):
        name = f"1000 pairs, {annotators} annotators"
        yield Variant("annotations", name, annotations=1000, annotators=annotators)
    for data_set in data_sets:
        yield Variant("left-out", data_set, left=Left("data_set", data_set))
    for kind, _ in kinds:
        yield Variant("left-out", kind.__name__, left=Left("kind", kind.__name__))
    for fact in FACTS:
        if fact != "data_set":
            for value in values(shards, fact):
                yield Variant("left-out", f"{fact} {value}", left=Left(fact, value))


def report(variant: Variant, found: Agreement) -> None:
    """Print one row."""
    sys.stdout.write(
        f"{variant.group:11} {variant.name:34} {found.pairs} pairs: Spearman {found.spearman:.3f}, "
        f"AUC {found.auc:.4f}\n"
    )
    sys.stdout.flush()


def _wanted(variant: Variant, groups: Sequence[str] | None, rows: Sequence[str] | None) -> bool:
    return (not groups or variant.group in groups) and (not rows or variant.name in rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True)
    add("--reconstructions", type=Path, help="shards of real reconstructions to mix in and to leave out")
    add("--steps", type=int, default=400)
    add("--pairs", type=int, default=1536, help="held-out pairs to measure on, at most")
    add("--only", choices=GROUPS[1:], action="append", help="some groups of rows; repeat")
    add("--row", action="append", help="some rows, by name; repeat")
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=1)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
