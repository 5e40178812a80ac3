"""How far a simulated update is from the observed one. Pure functions, and parts that configure them."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

TINY = 1e-20
"""Keeps a zero gradient's norm from dividing by zero; far below any squared norm seen in float32."""


class Objective(Protocol):
    """A distance of updates: lower fits better."""

    def __call__(self, simulated: Sequence[Tensor], observed: Sequence[Tensor]) -> Tensor:
        """Distances ``(R,)`` for ``simulated`` ``(R, *shape)`` tensors.

        ``observed`` are ``(*shape)``, one client's update, or ``(R, *shape)``, each row's own.
        """


class Cosine:
    """One minus the cosine of the angle between the whole updates; blind to scale."""

    def __call__(self, simulated: Sequence[Tensor], observed: Sequence[Tensor]) -> Tensor:
        """See `Objective`."""
        return cosine_distance(simulated, observed)


class SquaredError:
    """Squared error relative to the observed squared norm, so that its size means the same everywhere."""

    def __call__(self, simulated: Sequence[Tensor], observed: Sequence[Tensor]) -> Tensor:
        """See `Objective`."""
        return squared_error(simulated, observed)


class FittedSquaredError:
    """`SquaredError` after the simulated update is scaled to fit best: for an unknown scale."""

    def __call__(self, simulated: Sequence[Tensor], observed: Sequence[Tensor]) -> Tensor:
        """See `Objective`."""
        return fitted_squared_error(simulated, observed)


def cosine_distance(simulated: Sequence[Tensor], observed: Sequence[Tensor]) -> Tensor:
    """``1 - <s, o> / (|s| |o|)`` over all tensors together, ``(R,)`` in [0, 2].

    Geiping et al., "Inverting Gradients", NeurIPS 2020, equation 4 without the prior.
    """
    dot, own, theirs = _products(simulated, observed)
    return 1 - dot / ((own + TINY).sqrt() * (theirs + TINY).sqrt())


def squared_error(simulated: Sequence[Tensor], observed: Sequence[Tensor]) -> Tensor:
    """``|s - o|^2 / |o|^2`` over all tensors together, ``(R,)``.

    Zhu, Liu and Han, "Deep Leakage from Gradients", NeurIPS 2019, equation 3, divided by a constant.
    """
    parts = [_rows((s - o).square()) for s, o in zip(simulated, observed, strict=True)]
    theirs = torch.stack([_norms(s, o) for s, o in zip(simulated, observed, strict=True)]).sum(0)
    return torch.stack(parts).sum(0) / (theirs + TINY)


def fitted_squared_error(simulated: Sequence[Tensor], observed: Sequence[Tensor]) -> Tensor:
    """``min_a |a s - o|^2 / |o|^2 = 1 - cos^2`` over all tensors together, ``(R,)`` in [0, 1].

    A negative factor is no gradient, so that angles beyond 90 degrees count as 1. The residual is summed
    as such, since ``1 - cos^2`` loses all digits near the solution; the best factor needs no derivative
    of its own there.
    """
    dot, own, _ = _products(simulated, observed)
    factor = (dot.clamp(min=0) / (own + TINY)).detach()
    scaled = [factor.view(-1, *(1,) * (s.ndim - 1)) * s for s in simulated]
    return squared_error(scaled, observed)


def _products(simulated: Sequence[Tensor], observed: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """``<s, o>`` and ``<s, s>`` as ``(R,)``, and ``<o, o>``, a scalar or ``(R,)``, over all tensors."""
    pairs = list(zip(simulated, observed, strict=True))
    dot = torch.stack([_rows(s * o) for s, o in pairs]).sum(0)
    own = torch.stack([_rows(s.square()) for s, _ in pairs]).sum(0)
    theirs = torch.stack([_norms(s, o) for s, o in pairs]).sum(0)
    return dot, own, theirs


def _norms(simulated: Tensor, observed: Tensor) -> Tensor:
    """Squared norm of ``observed``: a scalar, or ``(R,)`` where each row has its own."""
    return _rows(observed.square()) if observed.ndim == simulated.ndim else observed.square().sum()


def _rows(values: Tensor) -> Tensor:
    """Sum of each row of ``(R, *shape)``; a parameter may be a scalar."""
    return values.reshape(len(values), -1).sum(1)
