"""Deep Leakage from Gradients (Zhu et al. 2019): squared error of gradients, L-BFGS."""

from typing import ClassVar, Literal

from pydantic import Field

from fl_audit.attacks._registry import attacks
from fl_audit.attacks.labels import Labels
from fl_audit.attacks.loop import Outcome
from fl_audit.attacks.objectives import FittedSquaredError, Objective, SquaredError
from fl_audit.attacks.optimisation import OptimisationAttack
from fl_audit.attacks.optimisers import LBFGS
from fl_audit.attacks.parts import Parts
from fl_audit.attacks.problem import AttackFailed, Problem
from fl_audit.attacks.schedules import Plateau
from fl_audit.attacks.start_names import DESCRIPTION, STARTS, StartName
from fl_audit.attacks.starts import NormalNoise
from fl_audit.core.types import Reconstruction

ENOUGH = 1e-9
"""Relative squared error below which float32 gradients hold nothing more."""


@attacks.register("dlg")
class DeepLeakage(OptimisationAttack):
    """Squared error of gradients, minimised by L-BFGS without any prior; best on small smooth models.

    Zhu, Liu and Han, "Deep Leakage from Gradients", NeurIPS 2019, https://arxiv.org/abs/1906.08935,
    equation 3 and algorithm 1. Differs in: labels are granted or inferred first, as Zhao et al., "iDLG",
    2020, https://arxiv.org/abs/2001.02610, show to be better than optimising them jointly; the scale of
    the gradient is fitted in closed form, which costs nothing in quality and survives clipping; steps are
    found by a strong Wolfe line search, without which one CIFAR-10 image in four diverged; further starts
    follow one that ends far from the gradient.
    """

    paper: ClassVar[str] = (
        "Zhu et al., Deep Leakage from Gradients, NeurIPS 2019, https://arxiv.org/abs/1906.08935"
    )
    works: ClassVar[str] = (
        "small smooth networks (LeNet with sigmoid): one image exactly, two to four sometimes; ReLU and max "
        "pooling stop it"
    )

    iterations: int = Field(
        100, ge=1, le=1_000_000, description="L-BFGS steps of up to 20 evaluations in each restart"
    )
    restarts: int = Field(
        3, ge=1, le=1024, description="random starts at most; one that succeeds is the last"
    )
    success: float = Field(
        1e-4, ge=0, le=1, description="relative squared error of the gradient that counts as success"
    )
    start: StartName = Field("noise", description=DESCRIPTION)
    scale: Literal["fitted", "exact"] = Field(
        "fitted", description="fitted: any factor on the gradient is forgiven; exact: as the paper has it"
    )

    def _parts(self, problem: Problem) -> Parts:
        objective: Objective = FittedSquaredError()
        if self.scale == "exact":
            if not problem.exact_scale:
                raise AttackFailed(
                    "scale=exact needs the training details (learning rate), which are not granted or not of "
                    "plain SGD, and a gradient that was not clipped; use scale=fitted"
                )
            objective = SquaredError()
        return Parts(
            objective=objective,
            optimiser=LBFGS(line_search=True),
            start=NormalNoise(std=0.1) if self.start == "noise" else STARTS[self.start],
            # A solution is approached by a quarter every five steps; noise ends at a floor within fifteen.
            stopping=Plateau(checks=2, share=5e-2, enough=ENOUGH),
            agreement=0.1,
            iterations=self.iterations,
            restarts=self.restarts,
            success=self.success,
            box=False,
            check_every=5,
        )

    def _finish(self, problem: Problem, labels: Labels, outcome: Outcome) -> Reconstruction:
        if outcome.total > self.success:
            problem.notes.append(
                f"no start reached a relative squared error of {self.success:g}; the best is "
                f"{outcome.total:.2g}"
            )
        return outcome.reconstruction(labels)
