"""See through Gradients (Yin et al. 2021): batch-norm statistics, and restarts that agree."""

from typing import ClassVar, Literal

from pydantic import Field

from fl_audit.attacks._registry import attacks
from fl_audit.attacks.bn_prior import BatchNormPrior
from fl_audit.attacks.group_consistency import GroupConsistency
from fl_audit.attacks.layer_weights import LayerDistance
from fl_audit.attacks.objectives import Cosine, Objective
from fl_audit.attacks.optimisation import OptimisationAttack
from fl_audit.attacks.optimisers import SignedAdam
from fl_audit.attacks.parts import Parts
from fl_audit.attacks.priors import Norm, Prior, TotalVariation
from fl_audit.attacks.problem import Problem
from fl_audit.attacks.schedules import CosineDecay
from fl_audit.attacks.start_names import DESCRIPTION, STARTS, StartName


@attacks.register("see-through-gradients")
class SeeThroughGradients(OptimisationAttack):
    """Gradient matching with batch-norm statistics, total variation and restarts that learn from each other.

    Yin, Mallya, Vahdat, Alvarez, Kautz and Molchanov, "See through Gradients: Image Batch Recovery via
    GradInversion", CVPR 2021, https://arxiv.org/abs/2104.07586: equation 2 for the objective, section 3.2 for
    the labels (here counted, repeated ones included), 3.3 for the priors and 3.4 for group consistency.
    Differs in: clients in train mode send what their own batch's statistics follow from, and these are used
    where they come; the signs of the slopes are followed; no noise is added to the steps.
    """

    uses: ClassVar[frozenset[str]] = OptimisationAttack.uses | {"batch_norm", "surrogate"}
    paper: ClassVar[str] = (
        "Yin et al., See through Gradients: Image Batch Recovery via GradInversion, CVPR 2021, "
        "https://arxiv.org/abs/2104.07586"
    )
    works: ClassVar[str] = (
        "networks with batch norm whose clients train in train mode and send its statistics: batches of "
        "several images; without batch norm it is left with its other priors"
    )

    iterations: int = Field(200, ge=1, le=1_000_000, description="steps of the optimiser in each restart")
    restarts: int = Field(2, ge=1, le=1024, description="starts that learn from each other")
    step_size: float = Field(0.1, gt=0, le=1, description="first step size, in pixel values of [0, 1]")
    objective: Literal["layers", "cosine"] = Field(
        "layers", description="layers: sum of the layers' distances, as in the paper; cosine: of all together"
    )
    statistics: Literal["best", "granted", "inferred", "running", "surrogate"] = Field(
        "best", description="where batch-norm statistics come from; best: the first of these that has any"
    )
    batch_norm: float = Field(0.1, ge=0, description="weight of the batch-norm statistics")
    tv: float = Field(1e-3, ge=0, description="weight of the total variation")
    norm: float = Field(1e-4, ge=0, description="weight of the mean square distance from grey")
    group: float = Field(0.1, ge=0, description="weight of the distance to the mean of the restarts")
    shift: int = Field(0, ge=0, le=64, description="largest shift in pixels by which restarts are aligned")
    start: StartName = Field("grey", description=DESCRIPTION)

    def _parts(self, problem: Problem) -> Parts:
        objective: Objective = LayerDistance() if self.objective == "layers" else Cosine()
        priors: list[tuple[float, Prior]] = [
            (self.batch_norm, BatchNormPrior(self.batch_norm, self.statistics, needed=False)),
            (self.tv, TotalVariation(self.tv)),
            (self.norm, Norm(self.norm)),
            (self.group * (self.restarts > 1), GroupConsistency(self.group, self.shift)),
        ]
        return Parts(
            objective=objective,
            priors=tuple(prior for weight, prior in priors if weight),
            optimiser=SignedAdam(self.step_size),
            schedule=CosineDecay(),
            start=STARTS[self.start],
            iterations=self.iterations,
            restarts=self.restarts,
        )
