"""The row space of a linear layer's gradient: what its inputs span, and how many there are.

With n inputs ``x_j`` the gradient of a linear layer's weight is ``G = A X`` and that of its bias
``b = A 1``, A being ``dL/dz``: the rows of ``[G, b]`` are mixtures of the rows ``[x_j, 1]``. So all that lies
in the row space of ``[G, b]`` and ends in 1 is a candidate for an input, at its true scale and sign. A, the
scale of the gradient, the loss and the number of local steps need not be known.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

MAX_ROWS = 2048
"""Rows of a gradient that are used, the largest first: any n of them in general position suffice."""

GAP = 30.0
"""Ratio of two neighbouring singular values that tells sources from rounding."""

FLOOR = 1e-9
"""Singular values below this share of the largest are rounding, whatever lies between them."""


@dataclass(frozen=True)
class Mixtures:
    """The gradient in an orthonormal basis of its row space, float64 on the CPU.

    Attributes:
        basis: ``(R, D + 1)``; the last column belongs to the bias.
        coordinates: ``(F, R)``: rows of the gradient, in the order of ``rows``.
        rows: which rows of the gradient these are, int64 ``(F,)``.
        noise: root mean square of what the basis leaves out, in the units of the coordinates.
    """

    basis: Tensor
    coordinates: Tensor
    rows: Tensor
    noise: float


def mixtures(weight_gradient: Tensor, bias_gradient: Tensor, sources: int) -> Mixtures:
    """The span of a gradient's strongest ``sources`` directions, fewer where its rank is lower."""
    rows, u, values, basis = _decompose(weight_gradient, bias_gradient)
    rank = min(sources, int((values > FLOOR * values[0]).sum()))
    left = max(len(rows) - rank, 1) * max(basis.shape[1] - rank, 1)
    noise = float(values[rank:].square().sum() / left) ** 0.5
    return Mixtures(basis[:rank], u[:, :rank] * values[:rank], rows, noise)


def rank_of_gradient(weight_gradient: Tensor, bias_gradient: Tensor) -> int | None:
    """The number of different inputs that a gradient shows: its rank, or None if noise hides it.

    The rank is where the widest gap between neighbouring singular values lies, so that float32 rounding
    counts as nothing. It is at most the number of different inputs, and at most that of active rows.
    """
    values = _decompose(weight_gradient, bias_gradient)[2]
    values = values.clamp(min=FLOOR * float(values[0]))
    ratios = values[:-1] / values[1:]
    if not len(ratios) or float(ratios.max()) < GAP:
        return None
    return int(ratios.argmax()) + 1


def _decompose(weight_gradient: Tensor, bias_gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Chosen rows, and the singular value decomposition of ``[G, b]`` over them, float64 on the CPU."""
    joined = torch.cat([weight_gradient, bias_gradient[:, None]], 1).to("cpu", torch.float64)
    joined = joined / joined.abs().max().clamp(min=1e-300)
    rows = joined.norm(dim=1).argsort(descending=True, stable=True)[:MAX_ROWS]
    u, values, basis = torch.linalg.svd(joined[rows], full_matrices=False)
    return rows, u, values, basis
