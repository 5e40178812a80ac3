"""Blind source separation: the inputs behind a linear layer's gradient, by independent component analysis.

The inputs lie in the row space of the gradient, see `_mixtures`; which of its candidates they are is what
independent component analysis guesses.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fl_audit.attacks._mixtures import mixtures
from fl_audit.attacks.clock import Clock
from fl_audit.attacks.priors import total_variation

SWEEPS = 200
"""Fixed-point iterations of FastICA at most."""

CHECK_EVERY = 50
"""Iterations between two reports of progress."""

STEP = {"differences": 3e-3, "values": 1e-2}
"""Adam's step size: the descent starts near the optimum where FastICA found the start, else far from it."""

Contrast = Literal["differences", "values"]


@dataclass(frozen=True)
class Criterion:
    """What tells a source from a mixture of sources.

    Attributes:
        contrast: ``"values"``: negentropy of the values, as Kariyappa et al. have it;
            ``"differences"``: negentropy of the differences between neighbours.
        iterations: steps of Adam.
        variation: weight of total variation (``"values"`` only: with ``"differences"`` the contrast itself
            is a smoothed total variation).
        independence: weight of the penalty on unmixing vectors that resemble each other.
        temperature: how sharply that penalty grows with their cosine.
        box: weight of the penalty on what lies outside of ``low`` to ``high``.
        low: least value that a source can have.
        high: largest value that a source can have; infinite where there is no limit.
    """

    contrast: Contrast = "differences"
    iterations: int = 500
    variation: float = 2.0
    independence: float = 0.01
    temperature: float = 12.4
    box: float = 1.0
    low: float = 0.0
    high: float = 1.0


@dataclass(frozen=True)
class Separation:
    """Sources found.

    Attributes:
        unmixing: ``(R, R)`` float64: ``unmixing @ basis`` are the rows ``[source, 1]``.
        total: the criterion at the end; lower is more like independent natural images.
        iterations: steps of the descent.
    """

    unmixing: Tensor
    total: float
    iterations: int


def unmix(
    weight_gradient: Tensor,
    bias_gradient: Tensor,
    sources: int,
    *,
    shape: tuple[int, int, int] | None,
    generator: torch.Generator,
    criterion: Criterion | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """The inputs of a linear layer from its gradient, e.g. images or the features before a classifier.

    Args:
        weight_gradient: ``(F, D)``, up to a common factor.
        bias_gradient: ``(F,)``, up to the same factor.
        sources: how many inputs at most; fewer come back where the gradient's rank is lower.
        shape: ``(C, H, W)`` of an input that is a map, whose neighbours are alike; else None.
        generator: source of randomness, on the CPU.
        criterion: what to look for; by default `Criterion`, for features after ReLU with ``high`` infinite.
        device: where to descend; the CPU by default.

    Returns:
        float64 ``(R, D)``, R at most ``sources``, in no particular order.
    """
    chosen = criterion or Criterion(high=math.inf)
    mixed = mixtures(weight_gradient, bias_gradient, sources)
    found = separate(mixed.basis, chosen, shape=shape, generator=generator, device=device)
    return (found.unmixing @ mixed.basis)[:, :-1]


def separate(
    basis: Tensor,
    criterion: Criterion,
    *,
    shape: tuple[int, int, int] | None,
    generator: torch.Generator,
    device: torch.device | None = None,
    clock: Clock | None = None,
    progress: Callable[[int, float], None] = lambda done, value: None,
) -> Separation:
    """Separate the sources that span ``basis`` ``(R, D + 1)``: FastICA, then descent on the criterion.

    A clock that is over ends the descent early.

    Raises:
        ValueError: ``contrast="differences"`` and ``shape`` disagree with the basis.
    """
    if shape is not None and math.prod(shape) != basis.shape[1] - 1:
        raise ValueError(f"expected inputs of shape {shape}, got {basis.shape[1] - 1} values each")
    if len(basis) == 1:
        return Separation(1 / basis[:, -1:], 0.0, 0)
    values = basis[:, :-1]
    signals = values - values.mean(1, keepdim=True)
    if criterion.contrast == "differences" and shape is not None:
        signals = differences(values.view(-1, *shape))
    whitening = _whitening(signals)
    start = torch.eye(len(basis), dtype=torch.float64)
    if criterion.contrast == "differences":
        start = fast_ica(whitening @ signals, generator)
    white, candidates = whitening @ signals, whitening @ basis
    to = device or torch.device("cpu")
    ticking = clock or Clock()
    vectors, total, done = _descend(start, white, candidates, criterion, shape, to, ticking, progress)
    unmixing = vectors @ whitening
    ends = unmixing @ basis[:, -1:]
    # A candidate that ends in 0 is a difference of inputs, of no scale: it stays finite and out of the box.
    return Separation(unmixing / torch.where(ends.abs() > 1e-12, ends, 1e-12), total, done)


def differences(maps: Tensor) -> Tensor:
    """Differences of vertical and horizontal neighbours: ``(N, C, H, W)`` to ``(N, T)``."""
    down = maps[..., 1:, :] - maps[..., :-1, :]
    right = maps[..., :, 1:] - maps[..., :, :-1]
    return torch.cat([down.flatten(1), right.flatten(1)], 1)


def fast_ica(signals: Tensor, generator: torch.Generator) -> Tensor:
    """Orthogonal unmixing of whitened signals ``(R, T)`` by the fixed point of ``exp(-s^2 / 2)``.

    Hyvärinen, "Fast and Robust Fixed-Point Algorithms for Independent Component Analysis", IEEE Transactions
    on Neural Networks 1999, equation 20, all components at once: the contrast for sources with heavy tails.
    """
    unmixing = _orthogonal(torch.randn(len(signals), len(signals), generator=generator, dtype=signals.dtype))
    for _ in range(SWEEPS):
        found = unmixing @ signals
        bell = (-found.square() / 2).exp()
        slopes = ((1 - found.square()) * bell).mean(1, keepdim=True)
        following = _orthogonal((found * bell) @ signals.T / signals.shape[1] - slopes * unmixing)
        turned = 1 - float((following * unmixing).sum(1).abs().min())
        unmixing = following
        if turned < 1e-7:
            break
    return unmixing


def log_cosh(values: Tensor) -> Tensor:
    """``log(cosh(x))`` that does not overflow."""
    size = values.abs()
    return size + torch.nn.functional.softplus(-2 * size) - math.log(2)


def resemblance(vectors: Tensor, temperature: float) -> Tensor:
    """Mean of ``exp(T |cosine|) - 1`` over pairs of unit vectors ``(R, D)``: 0 if all are orthogonal."""
    cosines = (vectors @ vectors.T).abs()
    return (cosines - torch.diag(cosines.diagonal())).mul(temperature).expm1().mean()


def _descend(
    start: Tensor,
    signals: Tensor,
    candidates: Tensor,
    criterion: Criterion,
    shape: tuple[int, int, int] | None,
    device: torch.device,
    clock: Clock,
    progress: Callable[[int, float], None],
) -> tuple[Tensor, float, int]:
    """Adam on unmixing vectors of unit length: the vectors, the criterion and the steps taken."""
    signals, candidates = signals.to(device, torch.float32), candidates.to(device, torch.float32)
    free = start.to(device, torch.float32).clone().requires_grad_()
    optimiser = torch.optim.Adam([free], lr=STEP[criterion.contrast])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, criterion.iterations)
    total, done = math.nan, 0
    for done in range(1, criterion.iterations + 1):
        loss = _criterion(torch.nn.functional.normalize(free), signals, candidates, criterion, shape)
        (free.grad,) = torch.autograd.grad(loss, free)
        optimiser.step()
        schedule.step()
        last = done == criterion.iterations or clock.over()
        if last or done % CHECK_EVERY == 0:
            total = float(loss.detach())
            progress(done, total)
        if last:
            break
    return torch.nn.functional.normalize(free.detach()).to("cpu", torch.float64), total, done


def _criterion(
    vectors: Tensor,
    signals: Tensor,
    candidates: Tensor,
    criterion: Criterion,
    shape: tuple[int, int, int] | None,
) -> Tensor:
    """The sum of what `Criterion` weighs, for unmixing vectors of unit length ``(R, R)``."""
    spread = log_cosh(vectors @ signals).mean(1)
    mixed = vectors @ candidates
    if criterion.contrast == "values":
        value = -spread.square().mean()
        if shape is not None:
            maps = mixed[:, :-1].reshape(1, -1, *shape)
            value = value + criterion.variation * total_variation(maps).sum()
    else:
        value = spread.mean()
    value = value + criterion.independence * resemblance(vectors, criterion.temperature)
    ends = mixed[:, -1:]
    found = mixed[:, :-1] / torch.where(ends.abs() > 1e-12, ends, 1e-12)
    outside = found - found.clamp(criterion.low, criterion.high)
    share = outside.norm(dim=1) / found.norm(dim=1).clamp(min=1e-12)
    total: Tensor = value + criterion.box * share.mean()
    return total


def _whitening(signals: Tensor) -> Tensor:
    """``(R, R)`` that makes signals ``(R, T)`` uncorrelated and of unit mean square."""
    values, vectors = torch.linalg.eigh(signals @ signals.T / signals.shape[1])
    scales: Tensor = values.clamp(min=1e-12 * float(values[-1]) + 1e-300).sqrt()
    result: Tensor = vectors.T / scales[:, None]
    return result


def _orthogonal(matrix: Tensor) -> Tensor:
    """The nearest orthogonal matrix."""
    left, _, right = torch.linalg.svd(matrix)
    nearest: Tensor = left @ right
    return nearest
