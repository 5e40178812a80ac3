"""Whole numbers of images for each class: rounding, and least squares over counts."""

import math

import torch
from torch import Tensor

SMALL = 1e-9


def rounded(counts: Tensor, images: int) -> Tensor:
    """Non-negative integers adding up to ``images``, nearest to ``counts`` by largest remainder.

    Args:
        counts: real numbers ``(K,)``.
        images: N.

    Returns:
        int64 ``(K,)``.
    """
    counts = counts.nan_to_num(0.0).clamp(min=0, max=images)
    total = float(counts.sum())
    counts = counts * (images / total) if total > images else counts
    whole = counts.floor()
    missing = images - int(whole.sum())
    order = (counts - whole).argsort(descending=True, stable=True)
    for place in range(missing):
        whole[order[place % len(order)]] += 1
    return whole.long()


def real_counts(quadratic: Tensor, linear: Tensor, images: float | None) -> Tensor:
    """Minimise ``n^T A n - 2 c^T n`` over ``n >= 0``, adding up to ``images`` unless None.

    Classes whose count comes out negative are taken to have no image, all at once, until none is left.

    Args:
        quadratic: A, ``(K, K)``, positive semi-definite.
        linear: c, ``(K,)``.
        images: N.

    Returns:
        ``(K,)``.
    """
    found = torch.zeros_like(linear)
    places = torch.arange(len(linear))
    ridge = SMALL * quadratic.diagonal().mean() + 1e-300
    while len(places):
        size = len(places)
        matrix = quadratic[places][:, places] + ridge * torch.eye(size, dtype=linear.dtype)
        right = linear[places]
        if images is not None:
            border = torch.ones(size, 1, dtype=linear.dtype)
            matrix = torch.cat(
                [torch.cat([matrix, border], 1), torch.cat([border.T, border.new_zeros(1, 1)], 1)]
            )
            right = torch.cat([right, right.new_tensor([images])])
        solved = torch.linalg.solve(matrix, right)[:size]
        if bool((solved >= 0).all()):
            found[places] = solved
            return found
        places = places[solved > 0]
    return found


def whole_counts(quadratic: Tensor, linear: Tensor, start: Tensor) -> tuple[Tensor, float]:
    """Minimise ``n^T A n - 2 c^T n`` over counts with the sum of ``start``, one image moved at a time.

    Args:
        quadratic: A, ``(K, K)``.
        linear: c, ``(K,)``.
        start: int64 ``(K,)``.

    Returns:
        int64 ``(K,)``, and the minimum found.
    """
    counts = start.to(linear.dtype)
    classes, size = len(counts), quadratic.diagonal()
    for _ in range(4 * classes):
        slope = 2 * (quadratic @ counts - linear)
        change = slope[None, :] - slope[:, None] + size[:, None] + size[None, :] - 2 * quadratic
        change[counts < 1, :] = math.inf
        change.fill_diagonal_(math.inf)
        best = int(change.argmin())
        if not float(change.flatten()[best]) < -SMALL * abs(float(linear @ counts)):
            break
        counts[best // classes] -= 1
        counts[best % classes] += 1
    return counts.long(), float(counts @ quadratic @ counts - 2 * linear @ counts)


def neighbours(quadratic: Tensor, linear: Tensor, counts: Tensor, most: int) -> list[Tensor]:
    """``counts`` and the best counts that differ from them by one image moved, best first."""
    now = counts.to(linear.dtype)
    slope, size = 2 * (quadratic @ now - linear), quadratic.diagonal()
    change = slope[None, :] - slope[:, None] + size[:, None] + size[None, :] - 2 * quadratic
    change[counts < 1, :] = math.inf
    change.fill_diagonal_(math.inf)
    found = [counts]
    for place in change.flatten().argsort(stable=True)[: most - 1].tolist():
        if math.isfinite(float(change.flatten()[place])):
            moved = counts.clone()
            moved[place // len(counts)] -= 1
            moved[place % len(counts)] += 1
            found.append(moved)
    return found
