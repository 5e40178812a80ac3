"""Label counts with one embedding for each class, refined in turn; see `labels` for the sources."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_audit.attacks._failed import AttackFailed
from fl_audit.attacks._label_counts import rounded
from fl_audit.attacks._last_layer import LastLayer

ROUNDS = 30

RIDGE = 1e-6
"""Of the linear system for the embeddings, relative."""

PLAUSIBLE = 3.0
"""Largest distance of a class's embedding from the stand-ins' mean, in standard deviations of one."""

TRIALS = 16


@dataclass(frozen=True)
class ClassFit:
    """Counts, and what goes with them.

    Attributes:
        counts: int64 ``(K,)``.
        real: before rounding, float64 ``(K,)``.
        scale: factor on the mean gradient.
        misfit: squared relative distance between the gradients seen and those of the estimate.
    """

    counts: Tensor
    real: Tensor
    scale: float
    misfit: float


def fit_classes(layer: LastLayer, images: int) -> ClassFit:
    """The best of several starts and scales."""
    starts = (_absent_embedding(layer), layer.typical)
    candidates = [
        _refine(layer, start, images, factor)
        for start in starts
        for factor in ([layer.scale] if layer.scale is not None else _scales(layer, start, images))
    ]
    return min(candidates, key=lambda candidate: candidate.misfit)


@dataclass(frozen=True)
class ClassEmbeddings:
    """An embedding for each class.

    Attributes:
        embeddings: ``(K, D)``; of classes without images what stand-ins say.
        residual: norm of what they leave of the gradient, relative.
        plausible: share of the gradient's squared norm that embeddings no further from the stand-ins' than
            `PLAUSIBLE` explain, in [0, 1].
    """

    embeddings: Tensor
    residual: float
    plausible: float


def class_embeddings(layer: LastLayer, counts: Tensor, scale: float) -> ClassEmbeddings:
    """The embeddings nearest to those of stand-ins that explain the gradient, given the counts.

    With shares s and probabilities P of an image of each class, the rows of the gradient are
    ``sum_k s_k (P_kc - 1[k = c]) e_k``: linear in the embeddings, which in turn give the probabilities.

    Args:
        layer: the last layer.
        counts: int64 ``(K,)``.
        scale: factor on the mean gradient.
    """
    shown = layer.embeddings
    likely = layer.probabilities(shown)
    start = (likely / likely.sum(0).clamp(min=1e-30)).T @ shown
    share, eye = counts.double() / counts.sum(), torch.eye(layer.classes, dtype=torch.float64)
    gradient, offset = layer.weight_gradient / scale, layer.offset_gradient / scale
    embeddings = start
    for _ in range(ROUNDS):
        weights = share[:, None] * (layer.probabilities(embeddings) - eye)
        freedom = (weights.T / share.clamp(min=1e-12)) * (share > 0)
        normal = freedom @ weights
        normal = normal + RIDGE * normal.diagonal().mean() * eye + 1e-300 * eye
        moved = start + freedom.T @ torch.linalg.solve(normal, gradient - weights.T @ start)
        embeddings = (embeddings + moved) / 2
    size = gradient.square().sum() + offset.square().sum()

    def left(guess: Tensor) -> float:
        weights = share[:, None] * (layer.probabilities(guess) - eye)
        rows = (gradient - weights.T @ guess).square().sum()
        offsets = (offset - weights.T @ layer.offset_feature(guess)).square().sum()
        value = float((rows + offsets) / size.clamp(min=1e-300))
        return value if math.isfinite(value) else math.inf

    spread = (shown - layer.typical).square().sum(1).mean().sqrt()
    far = (embeddings - start).norm(dim=1, keepdim=True).clamp(min=1e-300)
    near = start + (embeddings - start) * (PLAUSIBLE * spread / far).clamp(max=1)
    return ClassEmbeddings(embeddings, math.sqrt(left(embeddings)), max(1 - left(near), 0.0))


def _absent_embedding(layer: LastLayer) -> Tensor:
    """Probability-weighted mean embedding: the ratio of rows of classes without images is exactly that."""
    gradient = layer.offset_gradient
    positive = gradient > 0
    ratio = layer.weight_gradient[positive].sum(0) / gradient[positive].sum().clamp(min=1e-30)
    limit = 10 * float(layer.typical.norm()) + 1e-9
    usable = bool(torch.isfinite(ratio).all()) and float(ratio.norm()) < limit
    return ratio if usable and bool(positive.any()) else layer.typical


def _refine(layer: LastLayer, start: Tensor, images: int, factor: float) -> ClassFit:
    """Refine counts and class-wise embeddings in turn."""
    classes, gradient = layer.classes, layer.offset_gradient / factor
    embeddings = start.expand(classes, -1)
    probabilities = layer.probabilities(embeddings)
    share = torch.full((classes,), 1 / classes, dtype=torch.float64)
    best: ClassFit | None = None
    for _ in range(ROUNDS):
        real = images * (share @ probabilities - gradient)
        counts = rounded(real, images)
        share = counts.double() / images
        embeddings = _class_embeddings(layer, embeddings, probabilities, share, factor)
        probabilities = layer.probabilities(embeddings)
        misfit = _misfit(layer, embeddings, probabilities, share, factor)
        if best is None or misfit < best.misfit:
            best = ClassFit(counts, real, factor, misfit)
    if best is None:
        raise AttackFailed("labels could not be counted: the last layer's gradient is not finite")
    return best


def _class_embeddings(
    layer: LastLayer, embeddings: Tensor, probabilities: Tensor, share: Tensor, factor: float
) -> Tensor:
    """Solve row c of the weight gradient, ``sum_k share_k p_kc e_k - share_c e_c``, for ``e_c``."""
    weights = share[:, None] * probabilities
    own = weights.diagonal()
    others = weights.T @ embeddings - own[:, None] * embeddings
    divisor = share - own
    present = divisor > 1e-6
    solved = (others - layer.weight_gradient / factor) / divisor.clamp(min=1e-6)[:, None]
    return torch.where(present[:, None], solved, embeddings)


def _misfit(
    layer: LastLayer, embeddings: Tensor, probabilities: Tensor, share: Tensor, factor: float
) -> float:
    """Squared relative distance between the gradients seen and those of the estimate; NaN is infinite."""
    gradient = layer.offset_gradient / factor
    residual = share[:, None] * (probabilities - torch.eye(len(share), dtype=torch.float64))
    rows = residual.T @ embeddings - layer.weight_gradient / factor
    offsets = residual.T @ layer.offset_feature(embeddings) - gradient
    a = rows.square().sum() / (layer.weight_gradient / factor).square().sum().clamp(min=1e-30)
    b = offsets.square().sum() / gradient.square().sum().clamp(min=1e-30)
    value = float(a + b)
    return value if math.isfinite(value) else math.inf


def _scales(layer: LastLayer, start: Tensor, images: int) -> list[float]:
    """Scales worth trying: for a class without images, the bias gradient over the probability is the scale.

    Which classes have none is unknown, so that the misfit decides: all ratios where there are few.
    """
    gradient = layer.offset_gradient
    expected = layer.probabilities(start)
    ratios = (gradient / expected.clamp(min=1e-12)).sort(descending=True)
    absent = max(len(expected) - images, 1)
    places = ratios.indices[:absent]
    pooled = float(gradient[places].sum() / expected[places].sum().clamp(min=1e-12))
    step = max(len(expected) // TRIALS, 1)
    found = [pooled, *ratios.values[::step].tolist()]
    usable = [value for value in found if value > 0 and math.isfinite(value)]
    return usable or [max(float(gradient.abs().sum()), 1e-12)]
