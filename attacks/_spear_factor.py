"""The low-rank factorisation of a linear layer's gradient, and how noisy it is."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fl_audit.attacks.problem import AttackFailed

ABOVE = 8.0
"""Singular values of the signal exceed the median one, which is noise, by this factor at least."""

FLAT = 30.0
"""Singular values of the noise exceed their median by this factor at most: noise is not white."""

QUIET = 6.0
"""What is within this many standard deviations of the noise may be zero."""


@dataclass(frozen=True)
class Factor:
    """``[dL/dW, dL/db] = left right^T`` but for noise, float64; F live neurons, D inputs, rank b.

    Attributes:
        left: ``(F, b)``, the rows of the live neurons; orthogonal columns. An entry of ``left @ q`` with q
            of norm 1 is as noisy as an entry of the gradient.
        right: orthonormal columns, ``(D + 1, b)``; the last row belongs to the bias.
        noise: standard deviation of the gradient's noise by neuron, ``(F,)``, positive.
        live: which of all neurons are live, that is, moved by more than noise; bool.
        unexplained: share of the gradient outside of the factorisation, by norm.
    """

    left: Tensor
    right: Tensor
    noise: Tensor
    live: Tensor
    unexplained: float

    @property
    def rank(self) -> int:
        """The number of inputs that the gradient is made of, b."""
        return self.left.shape[1]

    @property
    def signal(self) -> Tensor:
        """``left`` in standard deviations of the noise."""
        return self.left / self.noise[:, None]


def factorise(weight_gradient: Tensor, bias_gradient: Tensor, expected: int | None) -> Factor:
    """Factorise by singular values; the rank is where they fall to the level of the noise.

    Args:
        weight_gradient: ``(F, D)``.
        bias_gradient: ``(F,)``.
        expected: number of inputs if known; decides between ranks that are possible.

    Raises:
        AttackFailed: the gradient is not of low rank.
    """
    whole = torch.cat([weight_gradient, bias_gradient[:, None]], 1).double()
    rows, columns = whole.abs().amax(1) > 0, whole.abs().amax(0) > 0
    moved = whole[rows][:, columns]
    left, values, right = torch.linalg.svd(moved, full_matrices=False)
    rank = _rank(values, expected)
    left = left[:, :rank] * values[:rank]
    rest = moved - left @ right[:rank]
    freedom = (1 - rank / moved.shape[0]) * (moved.shape[1] - rank)
    noise = rest.norm(dim=1) / max(freedom, 1.0) ** 0.5
    floor = torch.finfo(torch.float64).eps * float(values[0])
    noise = noise.clamp(min=max(0.1 * float(noise.median()), floor))
    strong = left.norm(dim=1) > QUIET * rank**0.5 * noise
    live = rows.clone()
    live[rows] = strong
    full = torch.zeros(whole.shape[1], rank, dtype=whole.dtype, device=whole.device)
    full[columns] = right[:rank].T
    return Factor(left[strong], full, noise[strong], live, float(rest.norm() / values.norm()))


def _rank(values: Tensor, expected: int | None) -> int:
    """Number of singular values before the largest drop to noise."""
    level = max(float(values.median()), 1e-15 * float(values[0]))
    most = (len(values) - 1) // 2  # the median must be noise
    drops = (values[:-1] / values[1:].clamp(min=0.1 * level)).tolist()
    possible = [
        rank
        for rank in range(1, most + 1)
        if values[rank] <= FLAT * level and values[rank - 1] >= ABOVE * level
    ]
    if expected in possible and drops[expected - 1] > 2:
        return expected
    if possible and (expected is None or expected <= most):
        return max(possible, key=lambda rank: drops[rank - 1])
    picked = values[torch.linspace(0, len(values) - 1, min(len(values), 5)).long()].tolist()
    raise AttackFailed(
        f"the gradient is not of low rank (singular values {', '.join(f'{value:.1e}' for value in picked)}): "
        f"either more images than half of the {len(values)} neurons or inputs that moved, or something was "
        "added to the update or left out of it: noise, pruning, quantisation, weight decay that is not known"
    )
