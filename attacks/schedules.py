"""How the step size changes over the iterations, and when to stop before the last one."""

import math
from dataclasses import dataclass
from typing import Protocol


class Schedule(Protocol):
    """The factor on the step size."""

    def __call__(self, progress: float) -> float:
        """Factor at ``progress``, the share of the run that is over, in [0, 1).

        A share rather than an iteration, so that a run cut to a time budget still sees its whole schedule.
        """


@dataclass(frozen=True)
class StepDecay:
    """A tenth after each milestone; the milestones of Geiping et al. 2020: 3/8, 5/8 and 7/8."""

    milestones: tuple[float, ...] = (3 / 8, 5 / 8, 7 / 8)
    factor: float = 0.1

    def __call__(self, progress: float) -> float:
        """See `Schedule`."""
        return float(self.factor ** sum(progress >= milestone for milestone in self.milestones))


@dataclass(frozen=True)
class CosineDecay:
    """Half a cosine from 1 down to ``end`` (Loshchilov and Hutter, ICLR 2017, equation 5, no restarts)."""

    end: float = 0.0

    def __call__(self, progress: float) -> float:
        """See `Schedule`."""
        return self.end + (1 - self.end) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class WarmUp:
    """From near 0 up to 1 in a straight line over a share of the run, then another schedule over the rest.

    Attributes:
        share: of the run, in (0, 1).
        then: sees the progress of the rest, from 0.
    """

    share: float = 0.1
    then: Schedule = StepDecay()

    def __call__(self, progress: float) -> float:
        """See `Schedule`."""
        if progress < self.share:
            return max(progress / self.share, 0.01)
        return self.then((progress - self.share) / (1 - self.share))


class Constant:
    """No change."""

    def __call__(self, progress: float) -> float:
        """See `Schedule`."""
        del progress
        return 1.0


class Stopping(Protocol):
    """When a chunk of restarts is finished before its last iteration."""

    def __call__(self, history: list[float]) -> bool:
        """Whether to stop, given the best objective at each check so far, oldest first."""


class Never:
    """Run all iterations."""

    def __call__(self, history: list[float]) -> bool:
        """See `Stopping`."""
        del history
        return False


@dataclass(frozen=True)
class Plateau:
    """Stop when the best objective fell by less than a share of itself over the last checks, or is tiny.

    Attributes:
        checks: how many checks back to compare with.
        share: relative improvement that counts as progress.
        enough: an objective at which more would change nothing that one can see.
        above: only an objective above it can be stuck. On a ReLU net images get better while the objective
            stands still near its floor: only where it stays large is the rest of the run wasted.
    """

    checks: int = 5
    share: float = 1e-3
    enough: float = 0.0
    above: float = 0.0

    def __call__(self, history: list[float]) -> bool:
        """See `Stopping`."""
        if history and history[-1] <= self.enough:
            return True
        if len(history) <= self.checks:
            return False
        stuck = history[-1] > (1 - self.share) * history[-1 - self.checks]
        return stuck and history[-1] > self.above
