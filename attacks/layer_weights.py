"""Objectives that weigh layers: the whole update's distance is mostly that of its few largest tensors.

In a ConvNet at random weights the biases of the last two layers hold 80% of the squared norm of the gradient
of one image, and the first convolution 0.002%.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fl_audit.attacks.objectives import TINY, Objective, cosine_distance

Depth = Literal["equal", "linear", "exponential"]


@dataclass(frozen=True)
class LayerCosine:
    """Weighted mean of the tensors' own cosine distances: a small layer counts like a large one.

    The weights are those of the code of Geiping et al., "Inverting Gradients", NeurIPS 2020. Far from the
    solution the first layers' angles are noise, so that this refines images rather than finding them.

    Attributes:
        weights: see `depth_weights`.
    """

    weights: Depth = "equal"

    def __call__(self, simulated: Sequence[Tensor], observed: Sequence[Tensor]) -> Tensor:
        """See `Objective`."""
        return layer_cosine(simulated, observed, depth_weights(self.weights, len(observed)))


@dataclass(frozen=True)
class Balanced:
    """Another objective after each tensor is scaled by its observed norm to the power of ``-power``.

    Attributes:
        objective: the objective.
        power: 0 changes nothing; 1 gives all tensors the same norm; 1/2 is half way.
    """

    objective: Objective
    power: float = 0.5

    def __call__(self, simulated: Sequence[Tensor], observed: Sequence[Tensor]) -> Tensor:
        """See `Objective`."""
        factors = [
            _factor(o, self.power, rows=o.ndim == s.ndim) for s, o in zip(simulated, observed, strict=True)
        ]
        return self.objective(
            [_times(s, f) for s, f in zip(simulated, factors, strict=True)],
            [_times(o, f) for o, f in zip(observed, factors, strict=True)],
        )


@dataclass(frozen=True)
class LayerDistance:
    """Sum of the tensors' Euclidean distances, which are not squared, relative to the observed norms.

    Yin et al., "See through Gradients", CVPR 2021, https://arxiv.org/abs/2104.07586, equation 2. Differs in:
    both updates have their norms divided out, so that their scale need not be known.
    """

    def __call__(self, simulated: Sequence[Tensor], observed: Sequence[Tensor]) -> Tensor:
        """See `Objective`."""
        return layer_distance(simulated, observed)


def layer_distance(simulated: Sequence[Tensor], observed: Sequence[Tensor]) -> Tensor:
    """``sum_l |s_l / |s| - o_l / |o|| / sum_l |o_l / |o||``, ``(R,)``; 0 where s is o times a factor."""
    rows = any(o.ndim == s.ndim for s, o in zip(simulated, observed, strict=True))
    own = torch.stack([_norms(s, rows=True).square() for s in simulated]).sum(0).sqrt()
    sizes = torch.stack([_norms(o, rows=rows) for o in observed])
    theirs = sizes.square().sum(0).sqrt()
    pairs = zip(simulated, observed, strict=True)
    parts = [_norms(_times(s, 1 / own) - _times(o, 1 / theirs), rows=True) for s, o in pairs]
    return torch.stack(parts).sum(0) * theirs / sizes.sum(0)


def layer_cosine(simulated: Sequence[Tensor], observed: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """``sum_l w_l (1 - cos(s_l, o_l)) / sum_l w_l``, ``(R,)`` in [0, 2]."""
    distances = [
        weight * cosine_distance([s], [o]) for weight, s, o in zip(weights, simulated, observed, strict=True)
    ]
    return torch.stack(distances).sum(0) / math.fsum(weights)


def depth_weights(kind: Depth, count: int) -> list[float]:
    """Weights of ``count`` tensors, first layer first, largest 1.

    ``equal``; ``linear``: from ``1 / count`` up to 1; ``exponential``: each e^(4 / count) times the last.
    """
    if kind == "equal":
        return [1.0] * count
    if kind == "linear":
        return [(place + 1) / count for place in range(count)]
    return [math.exp(-4 * (count - 1 - place) / count) for place in range(count)]


def _factor(observed: Tensor, power: float, *, rows: bool) -> Tensor:
    """``|o|^-power`` as a scalar, or ``(R,)`` for each row; 0 for a tensor of zeros."""
    norm = _norms(observed, rows=rows)
    return torch.where(norm > 2 * math.sqrt(TINY), norm**-power, 0)


def _norms(values: Tensor, *, rows: bool) -> Tensor:
    """Euclidean norm, a scalar or ``(R,)``; ``TINY`` keeps the slope finite where it is zero."""
    squares = values.square()
    return ((squares.reshape(len(values), -1).sum(1) if rows else squares.sum()) + TINY).sqrt()


def _times(values: Tensor, factor: Tensor) -> Tensor:
    return values * (factor.view(-1, *(1,) * (values.ndim - 1)) if factor.ndim else factor)
