"""The pictures that SemSim is trained on and measured on: which data sets, and which of them are held out."""

from pathlib import Path

import torch

from fl_audit.core.seeding import torch_generator
from fl_audit.semsim.drawings import drawings
from fl_audit.semsim.judged import judged_pairs
from fl_audit.semsim.pictures import Pictures, read_zip, split, without

HELD_OUT = 0.08
"""Share of the pictures that calibrate and measure."""
NAMES = ("CIFAR-10 (JPEG)", "Caltech-101")
"""The sets of photographs, which come first; pairs of them were judged."""
PHOTOGRAPHS = len(NAMES)


def picture_sets(data: Path) -> tuple[list[Pictures], list[Pictures]]:
    """Training and held-out pictures of the two data sets of photographs, and drawings.

    None is an original of judged-pairs.zip, where it is there. The same pictures are held out whatever the
    seed of a training, since answers about pairs of the others belong to their places.

    Args:
        data: folder with cifar10-jpeg.zip and caltech101-64.zip.
    """
    sets = [
        read_zip(data / "cifar10-jpeg.zip", "cifar10/train/", NAMES[0]),
        read_zip(data / "caltech101-64.zip", "caltech101-64/", NAMES[1]),
    ]
    judged = judged_pairs(data / "judged-pairs.zip")
    if judged:
        originals = torch.cat([part.originals for part in judged.values()])
        sets = [without(pictures, originals) for pictures in sets]
    sets.append(drawings(torch_generator(0, "drawings")))
    parts = [split(pictures, HELD_OUT, torch_generator(0, "held out", pictures.name)) for pictures in sets]
    return [more for more, _ in parts], [fewer for _, fewer in parts]
