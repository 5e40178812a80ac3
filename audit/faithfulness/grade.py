"""Scores of every pair by every metric, a bounded number of images in memory at a time."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fl_audit.core.progress import Progress
from fl_audit.faithfulness.folders import PairFiles, read_pair
from fl_audit.metrics import Context, Metric, Scores

CHUNK_BYTES = 16 * 2**20
"""Originals of one size that are scored together."""

HELD_BYTES = 2**31
"""Images kept for metrics that need all of them at once."""

TOO_MANY = f"all images together are over the limit of {HELD_BYTES // 2**30} GiB for comparing them at once"
DIFFERENT_SIZES = "the pairs differ in size or channels, and this metric compares whole sets of one size"


@dataclass(frozen=True)
class Graded:
    """Scores of all pairs.

    Attributes:
        names: of the pairs.
        scores: per-image scores by metric, in the order of ``names``.
        sets: the one score of each metric of whole sets.
        clusters: equal numbers for equal originals, int64 ``(N,)``.
    """

    names: tuple[str, ...]
    scores: Mapping[str, Scores]
    sets: Mapping[str, Scores]
    clusters: NDArray[np.int64]


def grade_pairs(
    pairs: Sequence[PairFiles],
    units: Mapping[str, Metric],
    progress: Progress | None = None,
    device: torch.device | str = "cpu",
) -> Graded:
    """Read every pair, and score it on ``device``.

    A metric that wants other originals of the client is given all originals of the same size.

    Raises:
        ConfigError: a file cannot be compared; names it.
    """
    alone = {name: unit for name, unit in units.items() if unit.per_image and not unit.wants}
    among = {name: unit for name, unit in units.items() if unit.per_image and unit.wants}
    table = {name: _Column(len(pairs)) for name in [*alone, *among]}
    digests: list[bytes] = []
    held = _Held()
    for chunk in _chunks(pairs, progress or Progress()):
        digests += [hashlib.sha256(image.numpy().tobytes()).digest() for image in chunk.originals]
        for name, unit in alone.items():
            table[name].put(chunk.rows, unit.grade(*chunk.on(device)))
        if among or len(alone) < len(units):
            held.add(chunk)
    for name, unit in among.items():
        for group in held.groups():
            originals, reconstructions = group.on(device)
            scores = unit.grade(originals, reconstructions, Context(client=originals))
            table[name].put(group.rows, scores)
    numbers = {digest: number for number, digest in enumerate(dict.fromkeys(digests))}
    return Graded(
        tuple(pair.name for pair in pairs),
        {name: table[name].scores() for name in units if name in table},
        {name: _score_set(unit, held, device) for name, unit in units.items() if not unit.per_image},
        np.array([numbers[digest] for digest in digests], dtype=np.int64),
    )


@dataclass(frozen=True)
class _Chunk:
    """Pairs of one size: their positions, and images ``(n, C, H, W)``."""

    rows: list[int]
    originals: Tensor
    reconstructions: Tensor

    def on(self, device: torch.device | str) -> tuple[Tensor, Tensor]:
        return self.originals.to(device), self.reconstructions.to(device)


@dataclass
class _Held:
    """Chunks kept for later, by image size; none at all once they are too large together."""

    chunks: dict[tuple[int, ...], list[_Chunk]] = field(default_factory=dict)
    size: int = 0

    def add(self, chunk: _Chunk) -> None:
        self.size += chunk.originals.nbytes + chunk.reconstructions.nbytes
        if self.size > HELD_BYTES:
            self.chunks.clear()
        else:
            self.chunks.setdefault(tuple(chunk.originals.shape[1:]), []).append(chunk)

    def groups(self) -> Iterator[_Chunk]:
        """All pairs of each size together."""
        for chunks in self.chunks.values():
            yield _Chunk(
                [row for chunk in chunks for row in chunk.rows],
                torch.cat([chunk.originals for chunk in chunks]),
                torch.cat([chunk.reconstructions for chunk in chunks]),
            )


class _Column:
    """Scores of one metric, filled in piece by piece."""

    def __init__(self, length: int) -> None:
        self._values = torch.full((length,), math.nan, dtype=torch.float64)
        self._reasons: list[str | None] = [TOO_MANY] * length

    def put(self, rows: Sequence[int], scores: Scores) -> None:
        self._values[list(rows)] = scores.values
        for row, reason in zip(rows, scores.reasons, strict=True):
            self._reasons[row] = reason

    def scores(self) -> Scores:
        return Scores(self._values, tuple(self._reasons))


def _chunks(pairs: Sequence[PairFiles], progress: Progress) -> Iterator[_Chunk]:
    """The pairs in order, neighbours of one size together."""
    progress.stage("grade", len(pairs))
    rows: list[int] = []
    images: list[tuple[Tensor, Tensor]] = []
    for row, pair in enumerate(pairs):
        progress.begin(pair.name)
        read = read_pair(pair)
        full = sum(original.nbytes for original, _ in images) >= CHUNK_BYTES
        if images and (full or read[0].shape != images[0][0].shape):
            yield _chunk(rows, images)
            rows, images = [], []
        rows.append(row)
        images.append(read)
        progress.advance()
    yield _chunk(rows, images)


def _chunk(rows: list[int], images: list[tuple[Tensor, Tensor]]) -> _Chunk:
    originals, reconstructions = zip(*images, strict=True)
    return _Chunk(rows, torch.stack(originals), torch.stack(reconstructions))


def _score_set(unit: Metric, held: _Held, device: torch.device | str) -> Scores:
    reason = DIFFERENT_SIZES if len(held.chunks) > 1 else None if held.chunks else TOO_MANY
    if reason is not None:
        return Scores(torch.full((1,), math.nan, dtype=torch.float64), (reason,))
    (group,) = held.groups()
    return unit.grade(*group.on(device))
