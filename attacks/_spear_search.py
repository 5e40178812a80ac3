"""Search for the columns of dL/dZ in the column space of a linear layer's gradient.

Coordinates: an input x with a 1 appended is ``right a`` for some ``a`` of length b (`Factor`), and a column
of dL/dZ is ``left q`` for some ``q``. ``planes a`` are the pre-activations of x. So the neurons that are off
for x form a half-space, and the column of x is zero exactly there.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fl_audit.attacks._spear_columns import Column, candidates, independent, separate, whiten
from fl_audit.attacks._spear_factor import Factor

DRAWS = 256
"""Directions drawn at once."""

PATIENCE = 8
"""Draws without a new column after which the misfit allowed grows."""

ALLOWED = (0.0, 0.003, 0.01, 0.02, 0.04)
"""Misfits allowed, in turn."""

SPREADS = ((1.0, 0.003, 4.0), (0.0, 0.05, 6.0))
"""How guesses spread around the centre, in turn: the power of the singular values that shapes the cloud, and
its least and greatest size, in standard deviations of the centre's pre-activations over the neurons.

Images that are much alike differ along directions of small singular values: power 1. Images that are all
different, with gradients that are alike, ask for power 0.
"""


def find_columns(
    factor: Factor,
    planes: Tensor,
    *,
    generator: torch.Generator,
    samples: int,
    proceed: Callable[[int, int], bool],
) -> tuple[list[Column], int]:
    """Find up to b independent columns.

    Args:
        factor: of the gradient, rank b > 1.
        planes: ``[W, bias] right``, of all neurons, ``(F', b)``.
        generator: for the draws.
        samples: how many directions to draw at most.
        proceed: told the number of columns and of samples so far; says whether to go on.

    Returns:
        The columns, and how many directions were drawn.
    """
    found: list[Column] = []
    spare: list[Column] = []
    used, idle = 0, 0
    features = whiten(planes)
    while len(found) < factor.rank and used < samples and proceed(len(found), used):
        draw = used // DRAWS
        known = found if draw % 4 < 3 else []  # should one be wrong, the others must not follow it
        points = _points(factor, planes, known, SPREADS[draw % len(SPREADS)], generator)
        directions, noise = _draw(factor, (points @ planes[factor.live].T).argsort(1))
        used += DRAWS
        allowed = ALLOWED[min(idle // PATIENCE, len(ALLOWED) - 1)]
        before = len(found)
        fresh = candidates(factor, features, directions, noise, found)
        spare = sorted([*fresh, *spare], key=lambda column: column.misfit)
        for column in spare:
            if column.misfit <= allowed and len(found) < factor.rank and independent(factor, found, column):
                found.append(column)
        spare = [column for column in spare if allowed < column.misfit <= ALLOWED[-1]][:DRAWS]
        idle = 0 if len(found) > before else idle + 1
    return found, used


def _points(
    factor: Factor,
    planes: Tensor,
    known: list[Column],
    spread: tuple[float, float, float],
    generator: torch.Generator,
) -> Tensor:
    """Guesses ``a`` at inputs not found yet, around a centre: ``(DRAWS, b)``, or one if there is no choice.

    A dead neuron is off for all inputs, a live one is on for some. The input whose neurons are most likely
    on where they are live, by logistic regression, is the centre. An input not found yet is orthogonal to
    every ``q`` that is.
    """
    power, least, most = spread
    size: Tensor = factor.left.norm(dim=0) ** power
    fixed = size * torch.stack([factor.right[-1], *(column.direction for column in known)])
    start: Tensor = torch.linalg.pinv(fixed)[:, 0]
    free: Tensor = torch.linalg.qr(fixed.T, mode="complete").Q[:, len(fixed) :]
    if not free.shape[1]:
        return (size * start)[None]
    # Where an input that is known is on, nothing is known about the others.
    use = torch.ones(len(planes), dtype=planes.dtype, device=planes.device)
    places = factor.live.nonzero()[:, 0]
    for column in known:
        use[places[column.on]] = 0
    outputs, moves = planes @ (size * start), planes @ (size[:, None] * free)
    unit = moves.square().mean().sqrt()
    (step,) = separate(moves / unit, factor.live[None], use[None], ridge=1.0, offset=outputs / unit)
    centre = start + free @ step
    draws = torch.rand(DRAWS, 1, generator=generator, dtype=torch.float64)
    far = least * (most / least) ** draws / math.sqrt(free.shape[1])
    steps = far * torch.randn(DRAWS, free.shape[1], generator=generator, dtype=torch.float64)
    unit_step = (planes @ (size * centre)).std() / unit
    points: Tensor = size * (centre + unit_step * steps.to(planes) @ free.T)
    return points


def _draw(factor: Factor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Directions orthogonal to the first neurons in each order that span a hyperplane.

    If all of these are off for one input, it is the direction of that input.

    Args:
        factor: the gradient.
        order: of the live neurons, ``(K, F)``; those that are off for the same input should come first.

    Returns:
        Directions of norm 1, ``(K', b)``, and the noise of their columns in units of the gradient's noise,
        ``(K', F)``.
    """
    signal, rank, count = factor.signal, factor.rank, len(order)
    clarity = signal.norm(dim=1)
    rows = signal / clarity[:, None]
    beyond = (0.5 * clarity ** (1 / 3)).clamp(min=3)
    space = torch.eye(rank, dtype=rows.dtype, device=rows.device).repeat(count, 1, 1)
    spanned = torch.zeros(count, dtype=torch.int64, device=rows.device)
    error = torch.zeros(count, dtype=rows.dtype, device=rows.device)
    for place in order.T:
        part = (space @ rows[place][:, :, None])[:, :, 0]
        length = part.norm(dim=1)
        new = (spanned < rank - 1) & (length > beyond[place] * (1 / clarity[place] + error.sqrt()))
        axis = torch.where(new[:, None], part / length.clamp(min=1e-300)[:, None], 0.0)
        space = space - axis[:, :, None] * axis[:, None, :]
        error = error + torch.where(new, (length * clarity[place]).clamp(min=1e-300) ** -2, 0.0)
        spanned = spanned + new
        if bool((spanned == rank - 1).all()):
            break
    full = spanned == rank - 1
    # What is left of the space is a line; its projector's longest column lies on it.
    longest = space.norm(dim=1).argmax(1)
    directions = normalize(space[torch.arange(count, device=rows.device), :, longest], dim=1)
    return directions[full], 1 + error[full].sqrt()[:, None] * clarity
