"""Graded pairs for training: pictures, a client's transformation, a degradation or a real reconstruction."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fl_audit.semsim.degradations import Kinds, degrade
from fl_audit.semsim.oracle import ANSWERS, grade
from fl_audit.semsim.pictures import Pictures
from fl_audit.semsim.reconstructions import Reconstructions, mirroring
from fl_audit.semsim.structure import transform_grade
from fl_audit.semsim.train import Batch
from fl_audit.semsim.transforms import Transformed, luminance, random_transform

if TYPE_CHECKING:
    from fl_audit.semsim.judgements import Judgements

SIZE = 64
"""Originals in a batch."""
REAL_SHARE = 0.15
"""Share of the originals of a batch whose first reconstruction is real."""
ANSWERED = 128
"""Pairs in a batch of judged ones."""


def batches(
    sets: Sequence[Pictures],
    real: Reconstructions | None,
    generator: torch.Generator,
    size: int = SIZE,
    kinds: Kinds | None = None,
) -> Iterator[Batch]:
    """Endless batches: each original with two reconstructions, see `synthetic`; two pictures of each class.

    Args:
        sets: pictures; sets are drawn from by their weights.
        real: real reconstructions to mix in.
        generator: CPU generator.
        size: originals in a batch.
        kinds: degradations to draw from, with weights; None for all.
    """
    draw = None if real is None else partial(_drawn, real, real.weights())
    weights = torch.tensor([part.weight for part in sets])
    while True:
        counts = torch.multinomial(weights, size, replacement=True, generator=generator)
        chosen = [
            torch.randint(len(part.images), (int((counts == n).sum()),), generator=generator)
            for n, part in enumerate(sets)
        ]
        chosen = [_with_kin(part, rows, generator) for part, rows in zip(sets, chosen, strict=True)]
        originals = torch.cat([part.floats(rows) for part, rows in zip(sets, chosen, strict=True)])
        originals = vary(originals, generator)
        found, grades = [], []
        for turn in range(2):
            reconstructions, seen = synthetic(originals, generator, lighter=turn == 0, kinds=kinds)
            found.append(reconstructions)
            grades.append(seen)
        if draw is not None:
            own = torch.randperm(size, generator=generator)[: round(REAL_SHARE * size)]
            originals[own], found[0][own], grades[0][own] = draw(len(own), generator)
            found[1][own], grades[1][own] = synthetic(originals[own], generator, kinds=kinds)
        yield Batch(originals, torch.stack(found, 1), torch.stack(grades, 1))


def answered(judged: "Judgements", generator: torch.Generator, size: int = ANSWERED) -> Iterator[Batch]:
    """Endless batches of judged pairs: each original with one reconstruction, graded by the answer alone.

    Half of them are mirrored; in other colours nobody judged them.

    Args:
        judged: what was answered.
        generator: CPU generator.
        size: pairs in a batch.
    """
    grades = judged.answers / ANSWERS
    while True:
        rows = torch.randint(len(grades), (size,), generator=generator)
        mirror = mirroring(size, generator)
        originals, reconstructions = (
            mirror(images[rows]).float() / 255 for images in (judged.originals, judged.reconstructions)
        )
        yield Batch(originals, reconstructions[:, None], grades[rows, None])


def synthetic(
    originals: Tensor,
    generator: torch.Generator,
    *,
    lighter: bool = False,
    kinds: Kinds | None = None,
) -> tuple[Tensor, Tensor]:
    """One imitated reconstruction of each original, and the oracle's grades ``(N,)``.

    Args:
        originals: float32 ``(N, 3, 32, 32)`` in [0, 1].
        generator: CPU generator.
        lighter: nine in ten transformed, with lighter degradations or (a third of them) none; else six in
            ten in place, with degradations of all strengths.
        kinds: see `batches`.
    """
    transformed, spoiled = spoil(originals, generator, lighter=lighter, kinds=kinds)
    kept = transform_grade(transformed)
    return spoiled, grade(originals, transformed.images, spoiled, transformed.visible, kept)


def spoil(
    originals: Tensor,
    generator: torch.Generator,
    *,
    lighter: bool,
    whole: float = 0.4,
    kinds: Kinds | None = None,
) -> tuple[Transformed, Tensor]:
    """What the clients trained on, and an imitated reconstruction of it in place.

    Args:
        originals: float32 ``(N, 3, 32, 32)`` in [0, 1].
        generator: CPU generator.
        lighter: see `synthetic`.
        whole: share of the lighter ones that no degradation touches.
        kinds: see `batches`.
    """
    strength = torch.rand(len(originals), generator=generator)
    share, moving, whole = (0.9, 0.85, whole) if lighter else (0.4, 0.65, 0.0)
    transformed = random_transform(originals, generator, share=share, moving=moving)
    strength = strength**2 if lighter else strength
    strength = torch.where(torch.rand(len(originals), generator=generator) < whole, 0.0, strength)
    return transformed, degrade(transformed.images, generator, strength, kinds)


def _drawn(
    real: Reconstructions, chances: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Originals, real reconstructions of them, and the oracle's grades."""
    rows = torch.multinomial(chances, count, replacement=True, generator=generator)
    some = real.part(rows).varied(generator)
    return some.original.float() / 255, some.reconstruction.float() / 255, some.grades()


def _with_kin(pictures: Pictures, rows: Tensor, generator: torch.Generator) -> Tensor:
    """The rows with every second one replaced by a picture of the class of the one before."""
    rows = rows.clone()
    for place in range(1, len(rows), 2):
        kin = (pictures.classes == pictures.classes[rows[place - 1]]).nonzero().flatten()
        rows[place] = kin[torch.randint(len(kin), (1,), generator=generator)]
    return rows


def vary(originals: Tensor, generator: torch.Generator) -> Tensor:
    """Originals of more kinds than the data sets hold.

    Some turned or in other colours, one in five grey, one in seven of few pixels, one in seven faded.
    """
    originals = random_transform(originals, generator, share=0.3).images
    few, faded, grey = (_rows(len(originals), share, generator) for share in (0.15, 0.15, 0.2))
    if len(few):
        side = int(torch.randint(8, 26, (1,), generator=generator))
        small = interpolate(originals[few], (side, side), mode="bilinear", antialias=True)
        originals[few] = interpolate(small, originals.shape[2:], mode="bilinear", align_corners=False)
    if len(faded):
        mean = originals[faded].mean((1, 2, 3), keepdim=True)
        contrast = 0.25 + 0.5 * torch.rand(len(faded), 1, 1, 1, generator=generator)
        originals[faded] = mean + contrast * (originals[faded] - mean)
    originals[grey] = luminance(originals[grey]).expand(-1, 3, -1, -1)
    return originals


def _rows(n: int, share: float, generator: torch.Generator) -> Tensor:
    """Each of ``n`` rows with a chance of ``share``."""
    return (torch.rand(n, generator=generator) < share).nonzero().flatten()
