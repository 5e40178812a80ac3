"""Your own attack in under 40 lines: choose the parts of the optimisation loop, write those you miss.

    cd examples
    fl-audit run --attack your_own_attack:FromGrey --attack your_own_attack:FromGrey:iterations=300 --rounds 2

Seeds, time budgets, Ctrl-C, several clients on one axis, labels and failures come from the base class.
"""

from typing import ClassVar

import torch
from pydantic import Field

from fl_audit.attacks import OptimisationAttack, Problem
from fl_audit.attacks.labels import Labels
from fl_audit.attacks.objectives import Cosine
from fl_audit.attacks.optimisers import SignedAdam
from fl_audit.attacks.parts import Parts
from fl_audit.attacks.priors import TotalVariation
from fl_audit.attacks.schedules import StepDecay


def nearly_grey(problem: Problem, labels: Labels) -> torch.Tensor:
    """A start of our own: grey images ``(N, C, H, W)`` with a little noise, since zero gradients may lurk."""
    return 0.5 + 0.02 * torch.randn(problem.shape, generator=problem.generator)


class FromGrey(OptimisationAttack):
    """Cosine distance and total variation, from a grey image."""

    paper: ClassVar[str] = "ours: https://example.org"
    works: ClassVar[str] = "tried on LeNet with one image"

    iterations: int = Field(150, ge=1, description="steps of signed Adam")

    def _parts(self, problem: Problem) -> Parts:
        prior, optimiser = TotalVariation(1e-3), SignedAdam(0.1)
        return Parts(
            Cosine(), optimiser, self.iterations, priors=(prior,), start=nearly_grey, schedule=StepDecay()
        )
