"""Labels: granted, or counted from the gradient of the last linear layer, repeated ones included.

For images ``j`` with embedding ``e_j`` (input of the last layer), probabilities ``p_j`` and one-hot labels
``y_j``, the mean cross-entropy has the gradients ``b = mean(p_j - y_j)`` for the bias and
``W = mean((p_j - y_j) e_j^T)`` for the weight. So the count of class c is ``N (mean(p_jc) - b_c)``: exact as
soon as the mean probabilities are known. Those follow from embeddings, and embeddings from ratios of rows
of W and b.

Sources: Zhao, Mopuri and Bilen, "iDLG", 2020, https://arxiv.org/abs/2001.02610 (one image: the class with the
negative gradient); Ma et al., "Instance-wise Batch Label Restoration via Gradients In Federated Learning"
(iLRG), ICLR 2023, https://openreview.net/forum?id=FIrQfNSOoTr (class-wise embeddings by ratio, probabilities
from them, counts from a linear system). Differs from iLRG in: counts and embeddings are refined in turn, the
better of two starting points is taken, and an unknown scale of the gradient is estimated from the classes
that are absent.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_audit.attacks._last_layer import LastLayer, last_layer
from fl_audit.attacks.losses import mean_cross_entropy
from fl_audit.attacks.problem import AttackFailed, Problem

ROUNDS = 30
TRIALS = 16


@dataclass(frozen=True)
class Labels:
    """Labels to work with: int64 ``(N,)`` on the problem's device, and whether they were inferred."""

    values: Tensor
    inferred: bool


def find_labels(problem: Problem) -> Labels:
    """The labels granted, else inferred (sorted by class: their order within the update is unknown).

    Raises:
        AttackFailed: they are not granted and the model does not end in a trained linear layer.
    """
    if problem.labels is not None:
        return Labels(problem.labels, inferred=False)
    if problem.loss is not mean_cross_entropy:
        raise AttackFailed(
            "the labels are not granted and cannot be inferred: that takes the clients' loss to be "
            "cross-entropy. Grant the labels (threat.labels)"
        )
    layer, scale = last_layer(problem), problem.gradient_scale
    counts = count_labels(layer, problem.num_images, scale)
    if scale is None and 1 < problem.num_images >= len(counts):
        problem.notes.append(
            "how often each label occurs is a guess: the scale of the gradient is unknown, and it shows "
            "only in classes without images, which need not exist with no more classes than images"
        )
    values = torch.repeat_interleave(torch.arange(len(counts)), counts)
    if len(problem.step_sizes) > 1:
        problem.notes.append(
            "the labels are counted as if all local steps had been one; which label belongs to which step "
            "is unknown: they are dealt out evenly"
        )
        values = _interleave(values, problem.first_pass)
    return Labels(values.to(problem.device), inferred=True)


def count_labels(layer: LastLayer, images: int, scale: float | None) -> Tensor:
    """How many of ``images`` have each label, int64 ``(K,)``, adding up to ``images``.

    Args:
        layer: the last layer.
        images: N.
        scale: factor on the true gradient that ``layer`` has; None: unknown and estimated.
    """
    bias_gradient = layer.bias_gradient
    if bias_gradient is None:
        # mean((p - y) <e, t>) / <t, t> is the bias gradient if embeddings resemble the typical one, t.
        bias_gradient = layer.weight_gradient @ layer.typical / layer.typical.square().sum().clamp(min=1e-30)
    if images == 1:
        counts = torch.zeros(len(bias_gradient), dtype=torch.int64)
        counts[bias_gradient.argmin()] = 1
        return counts
    candidates = [
        _refine(layer, bias_gradient, start, images, factor)
        for start in (_absent_embedding(layer, bias_gradient), layer.typical)
        for factor in ([scale] if scale is not None else _scales(layer, bias_gradient, start, images))
    ]
    return min(candidates, key=lambda candidate: candidate[1])[0]


def _absent_embedding(layer: LastLayer, bias_gradient: Tensor) -> Tensor:
    """Probability-weighted mean embedding: the ratio of rows of classes without images is exactly that."""
    positive = bias_gradient > 0
    ratio = layer.weight_gradient[positive].sum(0) / bias_gradient[positive].sum().clamp(min=1e-30)
    usable = (
        bool(torch.isfinite(ratio).all()) and float(ratio.norm()) < 10 * float(layer.typical.norm()) + 1e-9
    )
    return ratio if usable and bool(positive.any()) else layer.typical


def _refine(
    layer: LastLayer, bias_gradient: Tensor, start: Tensor, images: int, factor: float
) -> tuple[Tensor, float]:
    """Refine counts and class-wise embeddings in turn; returns counts and the misfit of the gradients."""
    classes = len(bias_gradient)
    embeddings = start.expand(classes, -1)
    probabilities = _softmax(layer, embeddings)
    share = torch.full((classes,), 1 / classes, dtype=torch.float64)
    best: tuple[Tensor, float] | None = None
    for _ in range(ROUNDS):
        expected = share @ probabilities
        counts = _round(images * (expected - bias_gradient / factor), images)
        share = counts.double() / images
        embeddings = _class_embeddings(layer, embeddings, probabilities, share, factor)
        probabilities = _softmax(layer, embeddings)
        misfit = _misfit(layer, bias_gradient / factor, embeddings, probabilities, share, factor)
        if best is None or misfit < best[1]:
            best = counts, misfit
    if best is None:
        raise AttackFailed("labels could not be counted: the last layer's gradient is not finite")
    return best


def _softmax(layer: LastLayer, embeddings: Tensor) -> Tensor:
    """Row k: probabilities of an image of class k, ``(K, K)``."""
    return (embeddings @ layer.weight.T + layer.bias).softmax(1)


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
    layer: LastLayer,
    bias_gradient: Tensor,
    embeddings: Tensor,
    probabilities: Tensor,
    share: Tensor,
    factor: float,
) -> float:
    """Relative distance between the gradients seen and those of the estimate; NaN counts as infinite."""
    residual = share[:, None] * (probabilities - torch.eye(len(share), dtype=torch.float64))
    rows = residual.T @ embeddings - layer.weight_gradient / factor
    biases = residual.sum(0) - bias_gradient
    a = rows.square().sum() / (layer.weight_gradient / factor).square().sum().clamp(min=1e-30)
    b = biases.square().sum() / bias_gradient.square().sum().clamp(min=1e-30)
    value = float(a + b)
    return value if math.isfinite(value) else math.inf


def _scales(layer: LastLayer, bias_gradient: Tensor, start: Tensor, images: int) -> list[float]:
    """Scales worth trying: for a class without images, the bias gradient over the probability is the scale.

    Which classes have none is unknown, so that the misfit decides: all ratios where there are few.
    """
    expected = _softmax(layer, start[None])[0]
    ratios = (bias_gradient / expected.clamp(min=1e-12)).sort(descending=True)
    absent = max(len(expected) - images, 1)
    places = ratios.indices[:absent]
    pooled = float(bias_gradient[places].sum() / expected[places].sum().clamp(min=1e-12))
    step = max(len(expected) // TRIALS, 1)
    found = [pooled, *ratios.values[::step].tolist()]
    usable = [value for value in found if value > 0 and math.isfinite(value)]
    return usable or [max(float(bias_gradient.abs().sum()), 1e-12)]


def _round(counts: Tensor, images: int) -> Tensor:
    """Non-negative integers adding up to ``images``, nearest to ``counts`` by largest remainder."""
    counts = counts.nan_to_num(0.0).clamp(min=0, max=images)
    total = float(counts.sum())
    counts = counts * (images / total) if total > images else counts
    whole = counts.floor()
    missing = images - int(whole.sum())
    order = (counts - whole).argsort(descending=True, stable=True)
    for place in range(missing):
        whole[order[place % len(order)]] += 1
    return whole.long()


def _interleave(values: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Deal sorted labels to the steps in turn, so that each step has a mixture like the whole."""
    places = [(slot / size, step) for step, size in enumerate(sizes) for slot in range(size)]
    order = sorted(range(len(places)), key=lambda index: places[index])
    dealt = torch.empty_like(values)
    dealt[torch.tensor(order)] = values
    return dealt
