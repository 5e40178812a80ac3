"""What natural images look like: penalties on the images themselves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from fl_audit.attacks.problem import Problem

Penalty = Callable[[Tensor], Tensor]
"""From images ``(R, N, C, H, W)`` of R rows to weighted penalties ``(R,)``; differentiable."""


class Prior(Protocol):
    """A penalty on images, made ready for the problems at hand: lower looks more natural."""

    def bind(self, problems: Sequence[Problem], restarts: int) -> Penalty:
        """The penalty for rows in the order problem by problem, each with ``restarts`` restarts.

        Args:
            problems: they share one model, step sizes and image shape; their number times ``restarts`` is R.
            restarts: rows of each problem.

        Raises:
            AttackFailed: the model or the update lacks what the prior builds on; the message says what.
        """


@dataclass(frozen=True)
class TotalVariation:
    """`total_variation` times ``weight``."""

    weight: float

    def bind(self, problems: Sequence[Problem], restarts: int) -> Penalty:
        """See `Prior`."""
        del problems, restarts
        return lambda images: self.weight * total_variation(images)


def total_variation(images: Tensor) -> Tensor:
    """Anisotropic total variation: mean absolute step down plus mean absolute step right, ``(R,)``.

    Rudin, Osher and Fatemi, "Nonlinear total variation based noise removal algorithms", 1992, in the
    anisotropic form of Geiping et al. 2020. Means run over images, channels and pixels; an image one
    pixel high or wide has no steps that way.

    Args:
        images: ``(R, N, C, H, W)``.
    """
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().flatten(1)
    right = (images[..., :, 1:] - images[..., :, :-1]).abs().flatten(1)
    return down.sum(1) / max(down.shape[1], 1) + right.sum(1) / max(right.shape[1], 1)
