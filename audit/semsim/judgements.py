"""Answers about pairs of training pictures: what the oracle is fitted to, and part of SemSim's training.

    python -m fl_audit.semsim.judgements --data DIR

fits the oracle again. The answers, 0 (nothing of it can be seen) to 4 (clearly recognisable), come from a
vision-language model that looked at pairs enlarged, shuffled and blind to how they were made; no person gave
one. The file holds no pictures: the pairs follow from the data sets and a seed, and are made again
(examples/semsim_sheets.py draws them).
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors.torch import save as to_bytes
from scipy.stats import spearmanr
from torch import Tensor

from fl_audit.core.errors import AuditError, ConfigError, MissingDataError
from fl_audit.core.files import write_bytes
from fl_audit.core.seeding import torch_generator
from fl_audit.semsim import oracle
from fl_audit.semsim.evidence import evidence
from fl_audit.semsim.material import PHOTOGRAPHS, picture_sets
from fl_audit.semsim.pairs import spoil, vary
from fl_audit.semsim.pictures import Pictures, as_uint8
from fl_audit.semsim.structure import transform_grade
from fl_audit.semsim.weights import packaged_path

UNSEEN = 0.1
"""Share of the originals whose answers nothing is fitted to or trained on."""
_EACH = 32
"""Pictures of each data set in a batch of the pool."""
_TOLERANCE = 0.05
""":attr:`Round.mean_pixel` may differ by so much: other pictures differ by more, other machines by less."""


class Round(BaseModel):
    """The answers of one round: which pairs of its pool were looked at, and what was said.

    Attributes:
        seed: of the pool.
        batches: how many the pool has, of 128 pairs each.
        pairs: places in the pool.
        answers: for each pair, a digit of 0 to 4 for each who looked at it.
        added: which rounds were added together: what is held out of them stays so when others are added.
        mean_pixel: of the pairs' originals, in [0, 255]: other pictures are noticed by it; None if unknown.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int
    batches: Annotated[int, Field(gt=0, le=10_000)]
    pairs: list[int]
    answers: list[Annotated[str, Field(pattern="^[0-4]+$")]]
    added: int = 1
    mean_pixel: float | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.pairs) != len(self.answers):
            raise ValueError(f"{len(self.pairs)} pairs with {len(self.answers)} answers")
        if len(set(self.pairs)) < len(self.pairs):
            raise ValueError("a pair is there twice: put its answers together, as in 23")
        size = self.batches * 2 * 2 * _EACH
        if not all(0 <= pair < size for pair in self.pairs):
            raise ValueError(f"a pair is not in 0 to {size - 1}, as {self.batches} batches hold")
        return self


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    rounds: list[Round]


@dataclass(frozen=True)
class Judgements:
    """Judged pairs.

    Attributes:
        originals: uint8 ``(N, 3, 32, 32)``.
        reconstructions: the same shape.
        evidence: float32 ``(N, K)``, see `evidence`.
        answers: 0 to 4, the mean of those who looked, ``(N,)``.
        added: int64 ``(N,)``, see `Round`.
        picture_set: which of the sets the original is from, int64 ``(N,)``.
    """

    originals: Tensor
    reconstructions: Tensor
    evidence: Tensor
    answers: Tensor
    added: Tensor
    picture_set: Tensor

    @classmethod
    def make(cls, sets: Sequence[Pictures], rounds: Sequence[Round]) -> Self:
        """Make the pairs of all rounds again.

        Raises:
            ConfigError: the pictures are not those that were judged.
        """
        parts = [make_pairs(sets, found) for found in rounds]
        answers = [sum(map(int, said)) / len(said) for found in rounds for said in found.answers]
        added = [found.added for found in rounds for _ in found.answers]
        places = torch.tensor([place for found in rounds for place in found.pairs])
        originals, reconstructions, numbers = (torch.cat(part) for part in zip(*parts, strict=True))
        # Each half of a batch shows so many pictures of the first set, then of the next.
        picture_set = places // _EACH % len(sets)
        return cls(
            originals, reconstructions, numbers, torch.tensor(answers), torch.tensor(added), picture_set
        )

    def part(self, rows: Tensor) -> "Judgements":
        """Some of them."""
        return Judgements(*(getattr(self, field.name)[rows] for field in fields(self)))

    def split(self, share: float = UNSEEN) -> tuple["Judgements", "Judgements"]:
        """Two parts, the second with up to ``share`` of the originals of each addition, as they were shown.

        A photograph may be in both, in other colours or turned.
        """
        kinds = self.originals.flatten(1).long().sum(1)
        unseen = torch.zeros(len(kinds), dtype=torch.bool)
        for together in self.added.unique().tolist():  # type: ignore[no-untyped-call]
            rows = self.added == together
            names: Tensor = kinds[rows].unique()  # type: ignore[no-untyped-call]
            order = torch.randperm(len(names), generator=torch_generator(0, "held-out answers"))
            unseen |= rows & torch.isin(kinds, names[order[: round(share * len(names))]])
        unseen &= ~torch.isin(kinds, kinds[~unseen])  # what another addition trains on is held out of none
        return self.part(~unseen), self.part(unseen)


def read(path: Path | None = None) -> list[Round]:
    """The answers of a file, or those that come with the package.

    Raises:
        MissingDataError: there is no such file.
        ConfigError: it does not hold answers, with what is wrong.
    """
    path = path or packaged_path().with_name("judgements.json")
    if not path.is_file():
        raise MissingDataError(f"{path}: no such file; the packaged answers come with fl-audit")
    try:
        return _File.model_validate_json(path.read_bytes()).rounds
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        said = f"{where}: {first['msg']}" if where else first["msg"]
        raise ConfigError(f"{path}: {said} ({error.error_count()} such errors)") from None


def make_pairs(sets: Sequence[Pictures], found: Round) -> tuple[Tensor, Tensor, Tensor]:
    """Originals, reconstructions and evidence of the judged pairs of a round, in the order of its ``pairs``.

    Raises:
        ConfigError: the pictures are not those that were judged.
    """
    generator = torch_generator(found.seed, "sheets")
    order = torch.tensor(found.pairs)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    made: list[Tensor] = []
    for half in range(2 * found.batches):
        if half % 2 == 0:
            rows = [torch.randint(len(part.images), (_EACH,), generator=generator) for part in sets]
            shown = torch.cat([part.floats(own) for part, own in zip(sets, rows, strict=True)])
            shown = vary(shown, generator)
        transformed, spoiled = spoil(shown, generator, lighter=half % 2 == 0, whole=0.1)
        start = half * len(shown)
        places = ((order >= start) & (order < start + len(shown))).nonzero().flatten()
        if not len(places):
            continue
        own = order[places] - start
        numbers = evidence(
            shown[own],
            transformed.images[own],
            spoiled[own],
            transformed.visible[own],
            transform_grade(transformed)[own],
        )
        parts.append((as_uint8(shown[own]), as_uint8(spoiled[own]), numbers))
        made.append(places)
    back = torch.cat(made).argsort()
    originals, reconstructions, numbers = (torch.cat(part)[back] for part in zip(*parts, strict=True))
    mean = float(originals.float().mean())
    if found.mean_pixel is not None and abs(mean - found.mean_pixel) > _TOLERANCE:
        raise ConfigError(
            f"these are not the pictures that were judged: the mean pixel of their originals is {mean:.2f}, "
            f"not {found.mean_pixel:.2f}. The folder must hold cifar10-jpeg.zip, caltech101-64.zip and "
            "judged-pairs.zip (whose originals are left out) as they were then"
        )
    return originals, reconstructions, numbers


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit the oracle again and write it."""
    parser = argparse.ArgumentParser(prog="python -m fl_audit.semsim.judgements", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--out", type=Path, default=Path("oracle.safetensors"))
    parser.add_argument("--steps", type=int, default=oracle.STEPS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        rounds = read()
        sets, _ = picture_sets(options.data)
        seen, unseen = Judgements.make(sets[:PHOTOGRAPHS], rounds).split()
    except AuditError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    fitted = oracle.Oracle.fit(seen.evidence, seen.answers, options.seed, options.steps)
    write_bytes(options.out, to_bytes(fitted.state_dict()))
    told = spearmanr(fitted.grade(unseen.evidence).numpy(), unseen.answers.numpy()).statistic
    sys.stdout.write(
        f"{options.out}: fitted to {len(seen.answers)} pairs; "
        f"on {len(unseen.answers)} others Spearman {told:.3f}\n"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
