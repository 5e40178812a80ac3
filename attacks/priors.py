"""What natural images look like: penalties on the images themselves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, Protocol

import torch
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
    """Total variation times ``weight``.

    Attributes:
        weight: factor.
        colours: ``channels``: `total_variation` of each channel; ``opponents``: `opponent_variation`.
    """

    weight: float
    colours: Literal["channels", "opponents"] = "channels"

    def bind(self, problems: Sequence[Problem], restarts: int) -> Penalty:
        """See `Prior`."""
        del problems, restarts
        variation = opponent_variation if self.colours == "opponents" else total_variation
        return lambda images: self.weight * variation(images)


@dataclass(frozen=True)
class Norm:
    """`squared_norm` times ``weight``: pulls pixels towards ``centre``."""

    weight: float
    centre: float = 0.5

    def bind(self, problems: Sequence[Problem], restarts: int) -> Penalty:
        """See `Prior`."""
        del problems, restarts
        return lambda images: self.weight * squared_norm(images - self.centre)


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


def opponent_variation(images: Tensor) -> Tensor:
    """`total_variation` of the channels and of all differences of two of them, ``(R,)``.

    Edges of natural images lie at one place in all colours; a step in a difference of colours costs extra.
    Åström and Schnörr, "Double-Opponent Vectorial Total Variation", ECCV 2016, with differences of channels
    as opponents, as for gradient inversion in breaching. A grey image has no differences.

    Args:
        images: ``(R, N, C, H, W)``.
    """
    pairs = combinations(range(images.shape[2]), 2)
    opponents = [images[:, :, a] - images[:, :, b] for a, b in pairs]
    return total_variation(torch.cat([images, *(value[:, :, None] for value in opponents)], 2))


def squared_norm(images: Tensor) -> Tensor:
    """Mean square over images, channels and pixels, ``(R,)``."""
    return images.square().flatten(1).mean(1)
