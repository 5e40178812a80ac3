"""Exact images of a ReLU layer from approximate ones: units that an image switches off ignore it.

The gradient is ``A X``, and after ReLU ``A[i, j] = 0`` wherever image j has a negative input to unit i. In
the basis of the gradient's row space, ``A X = C basis`` and ``X = U basis``, so that column j of A is
``C w_j`` with ``w_j`` column j of ``U^-1``: ``w_j`` is a null vector of the rows of C whose units image j
switches off. An approximate image tells most of these units. Any vector can be made to vanish on R - 1 rows,
so one that vanishes on more is no accident. Confirmed columns leave fewer images to separate: each round
makes the next one easier.

The sparsity is what Dimitrov et al., "SPEAR: Exact Gradient Inversion of Batches in Federated Learning",
NeurIPS 2024, https://arxiv.org/abs/2403.03945, build on, who sample rows at random; taking them from an
independent component analysis is ours.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_audit.attacks._mixtures import Mixtures
from fl_audit.attacks.clock import Clock

ROUNDS = 12
"""Rounds of separating what is not confirmed yet."""

REWEIGHTINGS = 25
"""Steps of the search for coefficients that leave the least absolute rest."""

TRIALS = 12
"""Numbers of rows tried for one image."""

BEYOND = 8
"""Rows that must vanish beyond the R - 1 that any vector can be made to vanish on."""

NOTHING = 10.0
"""Multiple of the noise that is no gradient."""

ROUNDING = 2e-6
"""Share of a row's length that is no gradient either: float32 rounds large rows more coarsely."""

CLEAR = 10.0
"""Multiple of that, over all rows, by which they must exclude all other vectors."""

LEVERAGE = 0.999
"""Leverage of a row without which a column would not be unique."""

AGREEMENT = 0.98
"""Share of the units on which an exact image and its column of the mixing must agree, on or off."""

FAILURES = 2
"""Rounds without a new column before giving up; each separates from another start."""

SAME = 1 - 1e-6
"""Cosine of two columns that are one."""


@dataclass(frozen=True)
class Exact:
    """What `exact_sources` found.

    Attributes:
        unmixing: ``(R, R)`` float64: ``unmixing @ basis`` are the rows ``[source, 1]``.
        confirmed: how many columns of the mixing are certain. The sources are exact if all are.
    """

    unmixing: Tensor
    confirmed: int


def exact_sources(
    mixed: Mixtures,
    unmixing: Tensor,
    preactivations: Callable[[Tensor], Tensor],
    separate: Callable[[Tensor], Tensor],
    details: Callable[[Tensor], Tensor],
    clock: Clock,
) -> Exact:
    """Replace approximate columns of the mixing by exact ones where units confirm them.

    Args:
        mixed: the gradient.
        unmixing: approximate, ``(R, R)`` float64.
        preactivations: inputs ``(N, D)`` to the layer's output before ReLU, ``(N, F)``, in the order of
            ``mixed.rows``.
        separate: separates what spans a basis ``(K, D + 1)``: the unmixing ``(K, K)``.
        details: what differs most from source to source, of candidates ``(N, D + 1)``, ``(N, T)``: linear,
            and sparse for a source.
        clock: when it is over no further round begins.
    """
    basis, size = mixed.basis, len(mixed.basis)
    known = torch.zeros(size, 0, dtype=torch.float64)
    rows = unmixing
    failures = 0
    for _ in range(ROUNDS):
        before = known.shape[1]
        for output in preactivations(_inputs(rows @ basis)):
            found = _confirmed_column(mixed, output)
            new = found is not None and not bool(((known.T @ found).abs() > SAME).any())
            if found is not None and new and known.shape[1] < size:
                known = torch.cat([known, found[:, None]], 1)
        if known.shape[1] == size:
            outputs = preactivations(_inputs(torch.linalg.pinv(known) @ basis))
            known = known[:, ~_disagreeing(mixed, known, outputs)]
        if known.shape[1] < size:
            # Sources not known yet are orthogonal to the known columns: fewer of them span what is left.
            rest = torch.linalg.svd(known)[0][:, known.shape[1] :]
            rows = separate(rest.T @ basis) @ rest.T
        failures = failures + 1 if known.shape[1] <= before else 0
        if known.shape[1] == size or failures == FAILURES or clock.over():
            break
    if not known.shape[1]:
        return Exact(unmixing, 0)
    sources = torch.linalg.pinv(known)
    if known.shape[1] < size:
        # A known column does not tell its source but for a sum of those not known.
        shares = _least_absolute(details(sources @ basis), details(rows @ basis))
        sources = torch.cat([sources - shares @ rows, rows])
    return Exact(sources / (sources @ basis[:, -1:]), known.shape[1])


def _inputs(candidates: Tensor) -> Tensor:
    """``(N, D)`` of candidates ``(N, D + 1)``, which are to end in 1."""
    return candidates[:, :-1] / candidates[:, -1:]


def _least_absolute(targets: Tensor, parts: Tensor) -> Tensor:
    """Coefficients ``(N, M)`` that leave the least absolute ``targets - coefficients @ parts``.

    Args:
        targets: ``(N, T)``.
        parts: ``(M, T)``.
    """
    rows = []
    for target in targets:
        weights = torch.ones_like(target)
        for _ in range(REWEIGHTINGS):
            weighted = parts * weights
            shares = torch.linalg.solve(weighted @ parts.T, weighted @ target)
            left = (target - shares @ parts).abs()
            weights = 1 / left.clamp(min=1e-3 * float(left.max()) + 1e-300)
        rows.append(shares)
    return torch.stack(rows)


def _confirmed_column(mixed: Mixtures, outputs: Tensor) -> Tensor | None:
    """The unit vector ``(R,)`` that vanishes on the rows of the units switched off, if enough rows agree.

    Some of the units that seem to be off are on, so that fewer and fewer rows, the surest, are tried.

    Args:
        mixed: the gradient.
        outputs: ``(F,)``: of the layer for one approximate image, before ReLU.
    """
    size = mixed.coordinates.shape[1]
    needed = size - 1 + BEYOND
    nothing = _nothing(mixed)
    order = outputs.argsort()
    order = order[(outputs[order] < 0) & (mixed.coordinates[order].norm(dim=1) > nothing[order])]
    rows, nothing = mixed.coordinates[order], nothing[order]
    if len(rows) < needed:
        return None
    for count in torch.linspace(len(rows), size, TRIALS).long().tolist():
        column = torch.linalg.svd(rows[:count], full_matrices=False)[2][-1]
        vanishing = (rows @ column).abs() < nothing
        if int(vanishing.sum()) < needed:
            continue
        left, values, vectors = torch.linalg.svd(rows[vanishing], full_matrices=False)
        if _is_unique(left, values, float(nothing[vanishing].norm())):
            found: Tensor = vectors[-1]
            return found
    return None


def _nothing(mixed: Mixtures) -> Tensor:
    """How large a value of each row may be and still be none, ``(F,)``."""
    lengths = mixed.coordinates.norm(dim=1)
    limits: Tensor = NOTHING * mixed.noise + ROUNDING * lengths + 1e-12 * lengths.max()
    return limits


def _is_unique(left: Tensor, values: Tensor, nothing: float) -> bool:
    """Whether one vector only vanishes on rows with this decomposition, also without any one of them.

    A sum of the columns of two images vanishes wherever both are off, and can be made to vanish on one
    further row, which then singles it out: that row has a leverage of 1 on what is orthogonal to the vector.
    """
    if len(values) == 1:
        return True
    leverage = left[:, :-1].square().sum(1)
    return float(values[-2]) > CLEAR * nothing and float(leverage.max()) < LEVERAGE


def _disagreeing(mixed: Mixtures, columns: Tensor, outputs: Tensor) -> Tensor:
    """Which columns ``(R, R)`` vanish elsewhere than where the ``outputs`` of their images are negative.

    Args:
        mixed: the gradient.
        columns: ``(R, R)``.
        outputs: ``(R, F)``.
    """
    nothing = _nothing(mixed)
    live = mixed.coordinates.norm(dim=1) > nothing
    off = (mixed.coordinates @ columns).abs() < nothing[:, None]
    return (off == (outputs.T < 0))[live].double().mean(0) < AGREEMENT
