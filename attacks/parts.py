"""What the optimisation loop runs on."""

from dataclasses import dataclass

from fl_audit.attacks.objectives import Objective
from fl_audit.attacks.optimisers import Optimiser
from fl_audit.attacks.priors import Prior
from fl_audit.attacks.schedules import Constant, Never, Schedule, Stopping
from fl_audit.attacks.starts import NormalNoise, Start

CHECK_EVERY = 20
"""Iterations between two looks at the objective: each waits for the device."""


@dataclass(frozen=True)
class Parts:
    """What the loop runs on.

    Attributes:
        objective: distance of simulated and observed update.
        optimiser: what moves the images.
        iterations: steps of the optimiser in each restart.
        restarts: independent starts.
        priors: penalties added to the objective.
        start: where a restart begins.
        schedule: factor on the step size.
        stopping: when to stop early.
        box: whether the images are projected to [0, 1] after each step.
        success: a total at which the client's other restarts are given up.
        agreement: relative difference of the two best restarts, run one after the other, at which the others
            are given up: all end at one floor, as under noise.
        settled: share of the run from which iterates compete for the best; an earlier one is returned only
            where none of these is finite. With large steps on a ReLU net the objective stands still while
            images get better, so that its lowest value means little.
        check_every: iterations between checks of the objective, for progress, stopping and NaN.
    """

    objective: Objective
    optimiser: Optimiser
    iterations: int
    restarts: int = 1
    priors: tuple[Prior, ...] = ()
    start: Start = NormalNoise()
    schedule: Schedule = Constant()
    stopping: Stopping = Never()
    box: bool = True
    success: float = 0.0
    agreement: float = 0.0
    settled: float = 0.0
    check_every: int = CHECK_EVERY
