"""Label counts with one embedding for each class, refined in turn; see `labels` for the sources."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_audit.attacks._failed import AttackFailed
from fl_audit.attacks._label_counts import rounded
from fl_audit.attacks._last_layer import LastLayer

ROUNDS = 30
"""Of refinement."""

TRIALS = 16
"""Scales tried where it is unknown, about."""


@dataclass(frozen=True)
class ClassFit:
    """Counts, and what goes with them.

    Attributes:
        counts: int64 ``(K,)``.
        real: before rounding, float64 ``(K,)``.
        scale: factor on the mean gradient.
        misfit: squared relative distance between the gradients seen and those of the estimate.
        embeddings: mean one of each class's images, ``(K, D)``; of no meaning where there is none.
    """

    counts: Tensor
    real: Tensor
    scale: float
    misfit: float
    embeddings: Tensor


def fit_classes(layer: LastLayer, images: int, *, counts: Tensor | None = None) -> ClassFit:
    """The best of several starts and scales; ``counts``, int64 ``(K,)``, are held if given."""
    starts = (_absent_embedding(layer), layer.typical)
    candidates = [
        _refine(layer, start, images, factor, counts)
        for start in starts
        for factor in ([layer.scale] if layer.scale is not None else _scales(layer, start, images))
    ]
    return min(candidates, key=lambda candidate: candidate.misfit)


def _absent_embedding(layer: LastLayer) -> Tensor:
    """Probability-weighted mean embedding: the ratio of rows of classes without images is exactly that."""
    gradient = layer.offset_gradient
    positive = gradient > 0
    ratio = layer.weight_gradient[positive].sum(0) / gradient[positive].sum().clamp(min=1e-30)
    limit = 10 * float(layer.typical.norm()) + 1e-9
    usable = bool(torch.isfinite(ratio).all()) and float(ratio.norm()) < limit
    return ratio if usable and bool(positive.any()) else layer.typical


def _refine(
    layer: LastLayer, start: Tensor, images: int, factor: float, known: Tensor | None = None
) -> ClassFit:
    """Refine counts and class-wise embeddings in turn."""
    classes, gradient = layer.classes, layer.offset_gradient / factor
    embeddings = start.expand(classes, -1)
    probabilities = layer.probabilities(embeddings)
    share = torch.full((classes,), 1 / classes, dtype=torch.float64)
    best: ClassFit | None = None
    for _ in range(ROUNDS):
        real = images * (share @ probabilities - gradient)
        counts = rounded(real, images) if known is None else known
        share = counts.double() / images
        embeddings = _class_embeddings(layer, embeddings, probabilities, share, factor)
        probabilities = layer.probabilities(embeddings)
        misfit = _misfit(layer, embeddings, probabilities, share, factor)
        if best is None or misfit < best.misfit:
            best = ClassFit(counts, real, factor, misfit, embeddings)
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
