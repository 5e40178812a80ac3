"""Which directions give a column of dL/dZ: it is zero exactly where a plane says that the neurons are off."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fl_audit.attacks._spear_factor import QUIET, Factor

CHECKED = 32
"""Directions of one draw that are looked at closely, those that fit a half-space best first."""

SOLE = 0.03
"""Misfit added where a single neuron decides between directions: chance can make a direction zero on one."""

NEWTON_STEPS = 25


@dataclass(frozen=True)
class Column:
    """A column of dL/dZ up to its scale; F live neurons.

    Attributes:
        direction: ``q`` of norm 1, ``(b,)``; the column is ``left @ q``.
        on: neurons where it is surely not zero, bool ``(F,)``.
        off: neurons where it may be zero, bool ``(F,)``; noise leaves some neurons undecided.
        clarity: root mean square of its entries in units of their noise.
        sole: whether one neuron alone decides between this direction and others.
        misfit: share of all neurons that are on the wrong side of the plane that separates ``on`` from
            ``off`` best, and `SOLE`; 0 for a true column.
    """

    direction: Tensor
    on: Tensor
    off: Tensor
    clarity: float
    sole: bool
    misfit: float = 1.0


def on_and_off(entries: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which entries of columns are surely not zero, which may be, and the clarity of each column.

    Real noise has heavier tails than Gaussian noise, and a clear signal leaves room for them: the bound for
    what is surely not zero grows with the clarity.

    Args:
        entries: ``(K, F)``.
        noise: standard deviation of their noise, ``(K, F)``.

    Returns:
        Bool ``(K, F)``, bool ``(K, F)``, and ``(K,)``.
    """
    relative = entries.abs() / noise
    clarity = relative.square().mean(1).sqrt()
    return relative > _tail(clarity)[:, None], relative <= QUIET, clarity


def hidden(on: Tensor, clarity: Tensor) -> Tensor:
    """Share of the neurons that look off since noise hides that they are on, ``(K,)``.

    Args:
        on: bool ``(K, F)``.
        clarity: ``(K,)``.
    """
    return on.double().mean(1) * (QUIET / clarity.clamp(min=1e-30)).clamp(max=0.5)


def _tail(clarity: Tensor) -> Tensor:
    """Standard deviations that noise does not exceed."""
    return (2 * clarity.clamp(min=1) ** (1 / 3)).clamp(min=QUIET)


def whiten(planes: Tensor) -> Tensor:
    """Orthogonal features, of mean square 1, that span the columns of ``planes``."""
    basis: Tensor = torch.linalg.qr(planes).Q
    return basis * math.sqrt(len(planes))


def separate(
    features: Tensor, on: Tensor, weights: Tensor, *, ridge: float, offset: Tensor | float = 0.0
) -> Tensor:
    """Logistic regression without intercept, several at once, by Newton's method.

    Args:
        features: ``(F, d)`` of mean square about 1.
        on: labels, bool ``(K, F)``.
        weights: ``(K, F)``; 0 leaves a neuron out.
        ridge: weight of the squared coefficients.
        offset: fixed part of the logits, ``(F,)``.

    Returns:
        Coefficients, ``(K, d)``.
    """
    count, size = len(on), features.shape[1]
    labels = on.to(features.dtype)
    result = torch.zeros(count, size, dtype=features.dtype, device=features.device)
    outer = (features[:, :, None] * features[:, None, :]).flatten(1)
    identity = ridge * torch.eye(size, dtype=features.dtype, device=features.device)
    for _ in range(NEWTON_STEPS):
        chance = (result @ features.T + offset).sigmoid()
        slope = ((chance - labels) * weights) @ features + ridge * result
        curvature = ((chance * (1 - chance) * weights) @ outer).view(count, size, size) + identity
        step = torch.linalg.solve(curvature, slope[:, :, None])[:, :, 0]
        longest = 4 * (1 + result.norm(dim=1, keepdim=True))  # where all is separated, steps explode
        result = result - step * (longest / step.norm(dim=1, keepdim=True).clamp(min=1e-30)).clamp(max=1)
    return result


def candidates(
    factor: Factor, features: Tensor, directions: Tensor, noise: Tensor, found: list[Column]
) -> list[Column]:
    """The directions most like a new column, made more precise from all neurons that are off, with misfit.

    Args:
        factor: the gradient.
        features: `whiten` of the planes of all neurons.
        directions: ``(K, b)``.
        noise: of the entries of their columns, in units of the gradient's noise, ``(K, F)``.
        found: the columns that are known.
    """
    signal = factor.signal
    on, off, _ = on_and_off(directions @ signal.T, noise)
    new = (off.sum(1) >= factor.rank) & on.any(1)
    for column in found:
        new &= (off & column.on).any(1)
    if not bool(new.any()):
        return []
    patterns = torch.unique(off[new], dim=0)
    best = _linear_fit(features, factor.live, patterns).argsort(descending=True, stable=True)[:CHECKED]
    refined = [refine(signal, patterns[index]) for index in best.tolist()]
    different = {column.off.cpu().numpy().tobytes(): column for column in refined if column is not None}
    return _with_misfit(factor.live, features, list(different.values()))


def refine(signal: Tensor, off: Tensor) -> Column | None:
    """The direction that vanishes on the neurons ``off``; None where they leave more than one, or none."""
    clear = signal.norm(dim=1, keepdim=True)
    for _ in range(2):
        values, axes = torch.linalg.svd(torch.linalg.qr(signal[off]).R)[1:]
        if len(values) < signal.shape[1] or float(values[-2]) < 4 * float(off.sum()) ** 0.5:
            return None
        # The error of the direction along another axis is 1 over that axis's singular value.
        noise = (1 + ((signal @ axes[:-1].T) / values[:-1]).square().sum(1)).sqrt()
        on, off, clarity = (part[0] for part in on_and_off((signal @ axes[-1])[None], noise[None]))
        if int(off.sum()) < signal.shape[1] or not bool(on.any()):
            return None
    # A neuron of leverage 1 cannot be left out without leaving another direction.
    leverage = torch.linalg.svd((signal / clear)[off], full_matrices=False).U[:, :-1].square().sum(1)
    return Column(axes[-1], on, off, float(clarity), sole=float(leverage.max()) > 1 - 1e-3)


def independent(factor: Factor, found: list[Column], column: Column) -> bool:
    """Whether ``column`` is none of the ``found`` ones, nor a mixture of them, beyond what noise explains."""
    columns = factor.left @ torch.stack([other.direction for other in [*found, column]], 1)
    smallest = float(torch.linalg.svdvals(normalize(columns, dim=0))[-1])
    return smallest > 10 / min(other.clarity for other in [*found, column])


def _with_misfit(live: Tensor, features: Tensor, columns: list[Column]) -> list[Column]:
    if not columns:
        return []
    on = torch.zeros(len(columns), len(live), dtype=torch.bool, device=live.device)
    sure = torch.ones_like(on)
    on[:, live] = torch.stack([column.on for column in columns])
    sure[:, live] = torch.stack([column.on | column.off for column in columns])
    side = separate(features, on, sure.to(features.dtype), ridge=1e-4) @ features.T > 0
    wrong = ((side != on) & sure).sum(1) / sure.sum(1)
    wrong = wrong - hidden(on, torch.tensor([column.clarity for column in columns]).to(features))
    return [
        replace(column, misfit=share + SOLE * column.sole)
        for column, share in zip(columns, wrong.clamp(min=0).tolist(), strict=True)
    ]


def _linear_fit(features: Tensor, live: Tensor, off: Tensor) -> Tensor:
    """Share of neurons on the right side of the least-squares plane, the worse of on and off, ``(K,)``."""
    on = torch.zeros(len(off), len(live), dtype=torch.bool, device=off.device)
    on[:, live] = ~off
    side = (on.to(features.dtype) * 2 - 1) @ features @ features.T > 0
    hit_on = (side & on).sum(1) / on.sum(1).clamp(min=1)
    hit_off = (~side & ~on).sum(1) / (~on).sum(1).clamp(min=1)
    return torch.minimum(hit_on, hit_off)
