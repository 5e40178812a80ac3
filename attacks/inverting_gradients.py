"""Inverting Gradients (Geiping et al. 2020): cosine distance, total variation, signed Adam."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from fl_audit.attacks._client_model import uses_batch_statistics
from fl_audit.attacks._registry import attacks
from fl_audit.attacks.bn_prior import BatchNormPrior
from fl_audit.attacks.known_entries import KnownEntries, looks_sparsified
from fl_audit.attacks.noise import noise_share
from fl_audit.attacks.objectives import Cosine, Objective
from fl_audit.attacks.optimisation import OptimisationAttack
from fl_audit.attacks.optimisers import SignedAdam
from fl_audit.attacks.parts import Parts
from fl_audit.attacks.priors import Prior, TotalVariation
from fl_audit.attacks.problem import Problem
from fl_audit.attacks.rows import is_small
from fl_audit.attacks.schedules import CosineDecay, Plateau
from fl_audit.attacks.start_names import DESCRIPTION, STARTS, StartName

NOISY = 0.05
"""Share of noise in the update below which it is not told from a gradient's own small entries."""

STUCK = Plateau(checks=3, share=2e-2, above=0.5)
"""Angles of 60 degrees and more that 60 iterations do not improve by 2%: only noise is left to fit."""

SETTLED = 0.9
"""Share of the run after which the step size is below a fortieth of the first."""


@attacks.register("inverting-gradients")
class InvertingGradients(OptimisationAttack):
    """Cosine distance of gradients with total variation, minimised by signed Adam in the pixel box.

    Geiping, Bauermeister, Dröge and Moeller, "Inverting Gradients - How easy is it to break privacy in
    federated learning?", NeurIPS 2020, https://arxiv.org/abs/2003.14053, equation 4 and section 5 for
    several local steps. Differs in: pixels and step size are in [0, 1], normalisation being the model's;
    restarts share one batch axis; the step size falls along a cosine, from twice the paper's, with less
    momentum; the start is grey, since most images are nearer to it than to noise; the best of the last
    iterates is returned; total variation weighs more where the update is noisy, and where max pooling and
    few weights leave many pixels open, and is then double-opponent (`opponent_variation`); batch-norm
    statistics that clients in train mode give away are matched (`bn_prior`); the zeros of a pruned update are
    no evidence; far fewer iterations.
    """

    paper: ClassVar[str] = (
        "Geiping et al., Inverting Gradients - How easy is it to break privacy in federated learning?, "
        "NeurIPS 2020, https://arxiv.org/abs/2003.14053"
    )
    works: ClassVar[str] = (
        "any differentiable classifier: one image on convolutional and residual nets, small batches on "
        "smaller ones; several local steps by unrolling them"
    )

    iterations: int = Field(300, ge=1, le=1_000_000, description="steps of signed Adam in each restart")
    restarts: int = Field(1, ge=1, le=1024, description="independent random starts; the best is returned")
    step_size: float = Field(0.2, gt=0, le=1, description="first step size, in pixel values of [0, 1]")
    momentum: float = Field(0.5, ge=0, lt=1, description="share of earlier steps in the direction followed")
    tv: float = Field(5e-4, ge=0, description="weight of the total variation beside the cosine distance")
    noisy_tv: float = Field(
        0.3,
        ge=0,
        description="weight added to it, times the share of noise in the update",
    )
    pooled: float = Field(
        200,
        ge=1,
        description="factor on tv where a small network pools by maximum, whose gradient skips most pixels; "
        "it is then double-opponent (edges lie at one place in all colours), unless batch-norm statistics "
        "are matched",
    )
    batch_norm: float = Field(
        1.0,
        ge=0,
        description="weight of the batch-norm statistics of the client's own batches, where clients in train "
        "mode send what they follow from and the update is not noisy",
    )
    start: StartName = Field("grey", description=DESCRIPTION)
    zeros: Literal["auto", "evidence", "missing"] = Field(
        "auto", description="what exact zeros of the update say; auto: missing if it looks pruned"
    )

    def _parts(self, problem: Problem) -> Parts:
        pruned = self._is_pruned(problem)
        objective: Objective = KnownEntries(Cosine()) if pruned else Cosine()
        return Parts(
            objective=objective,
            priors=tuple(self._priors(problem)),
            optimiser=SignedAdam(self.step_size, self.momentum),
            schedule=CosineDecay(),
            start=STARTS[self.start],
            stopping=STUCK,
            settled=SETTLED,
            iterations=self.iterations,
            restarts=self.restarts,
        )

    def _priors(self, problem: Problem) -> Iterator[Prior]:
        noise = _noise(problem)
        pools = pools_and_is_small(problem)
        statistics = bool(uses_batch_statistics(problem.model) and problem.buffers_received)
        weight = self.tv * (self.pooled if pools else 1.0) + self.noisy_tv * noise
        if weight:
            yield TotalVariation(weight, "opponents" if pools and not statistics else "channels")
        if self.batch_norm and statistics and not noise:
            yield BatchNormPrior(self.batch_norm, "inferred", needed=False)

    def _is_pruned(self, problem: Problem) -> bool:
        if self.zeros == "auto":
            return looks_sparsified(list(problem.observed.values()))
        return self.zeros == "missing"


def _noise(problem: Problem) -> float:
    """Share of noise in the update, 0 where it is not told from a gradient's own small entries."""
    share = noise_share(list(problem.observed.values()))
    return share if share >= NOISY else 0.0


def pools_and_is_small(problem: Problem) -> bool:
    """Whether the gradient tells little of most pixels: by max pooling, and few weights besides."""
    return problem.max_pooled and is_small(problem.model)
