"""The recognisability oracle: labels for training where nobody was asked. A small network, not people.

It judges a pair by `evidence`, which knows the image that the client trained on, in place under the
reconstruction. It was fitted to answers of a vision-language model that looked at pairs of training pictures
(`judgements`), and gives the answer to expect for pairs that nobody looked at.
"""

import functools
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fl_audit.core.errors import MissingWeightsError
from fl_audit.core.seeding import seeded_globals
from fl_audit.semsim.evidence import NAMES, evidence
from fl_audit.semsim.structure import FAINT
from fl_audit.semsim.weights import packaged_path

UNRECOGNISABLE, RECOGNISABLE = 0.375, 0.625
"""Grades at or under the first are labelled 0, at or over the second 1, between them 0.5: half way between
the answers 1 (hardly anything), 2 (partly) and 3 (recognisable, though degraded), each divided by 4."""
ANSWERS = 4
"""The greatest answer: clearly recognisable as the same content. The least is 0."""

PATH = packaged_path().with_name("oracle.safetensors")
"""Of the fitted oracle that comes with the package."""

STEPS = 6000
"""Of the fit; with narrower networks 3,000 were as good within 0.002 of Spearman on held-out answers."""
_MEMBERS, _WIDTH = 4, 64
_CLAMP = 4.0


class Oracle(nn.Module):
    """Small networks on standardised evidence; each says how likely an answer above 0, 1, 2 and 3 is."""

    mean: Tensor
    spread: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(len(NAMES)))
        self.register_buffer("spread", torch.ones(len(NAMES)))
        self.members = nn.ModuleList(
            nn.Sequential(
                nn.Linear(len(NAMES), _WIDTH),
                nn.GELU(),
                nn.Dropout(0.1),
                nn.Linear(_WIDTH, _WIDTH),
                nn.GELU(),
                nn.Dropout(0.1),
                nn.Linear(_WIDTH, ANSWERS),
            )
            for _ in range(_MEMBERS)
        )

    def forward(self, numbers: Tensor) -> Tensor:
        """Log-odds of answers above 0, 1, 2, 3 from each member, ``(members, N, 4)``."""
        inputs = ((numbers - self.mean) / self.spread).clamp(-_CLAMP, _CLAMP)
        return torch.stack([member(inputs) for member in self.members])

    @torch.no_grad()
    def grade(self, numbers: Tensor) -> Tensor:
        """The answer to expect, divided by 4, ``(N,)`` in [0, 1], from evidence ``(N, len(NAMES))``."""
        grades: Tensor = self(numbers).sigmoid().mean((0, 2))
        return grades

    @classmethod
    def fit(cls, numbers: Tensor, answers: Tensor, seed: int, steps: int = STEPS) -> Self:
        """Fit to answers in [0, 4], ``(N,)``; binary cross entropy at each of the four thresholds."""
        with seeded_globals(seed, "torch"):
            oracle = cls()
            oracle.mean, oracle.spread = numbers.mean(0), numbers.std(0) + 1e-6
            levels = torch.arange(ANSWERS) + 0.5
            # The mean of two annotators may lie on a threshold: then it says nothing about it.
            wanted = (answers[:, None] > levels).float() + 0.5 * (answers[:, None] == levels).float()
            optimiser = torch.optim.AdamW(oracle.parameters(), lr=4e-3, weight_decay=0.3)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 6e-3, total_steps=steps)
            for _ in range(steps):
                rows = torch.randint(len(answers), (256,))
                logits = oracle(numbers[rows])
                loss = nn.functional.binary_cross_entropy_with_logits(logits, wanted[rows].expand_as(logits))
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
        return oracle.eval().requires_grad_(False)


def load(path: Path) -> Oracle:
    """A fitted oracle.

    Raises:
        MissingWeightsError: the file is missing or not one of an oracle.
    """
    fitted = Oracle()
    try:
        fitted.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise MissingWeightsError(
            f"{path} is not an oracle that python -m fl_audit.semsim.judgements wrote: {reason}"
        ) from error
    return fitted.eval().requires_grad_(False)


@functools.lru_cache(maxsize=1)
def packaged() -> Oracle:
    """The oracle that comes with the package."""
    return load(PATH)


def grade(
    originals: Tensor, victims: Tensor, reconstructions: Tensor, visible: Tensor, kept: Tensor
) -> Tensor:
    """How recognisable the originals are in the reconstructions, ``(N,)`` in [0, 1]; see `evidence`.

    An original of one colour shows nothing that could be recognised.
    """
    grades = packaged().grade(evidence(originals, victims, reconstructions, visible, kept))
    contrast = originals.flatten(2).std(2).amax(1)
    return grades * (contrast / FAINT).clamp(max=1)


def labels(grades: Tensor) -> Tensor:
    """Grades as a judge's answers: 0, 0.5 or 1."""
    return 0.5 * ((grades > UNRECOGNISABLE).float() + (grades >= RECOGNISABLE).float())
