"""Labels: granted, or counted from the gradient of the last linear layer, repeated ones included.

For images ``j`` with embedding ``e_j`` (input of the last layer), probabilities ``p_j`` and one-hot labels
``y_j``, the mean cross-entropy has the gradients ``b = mean(p_j - y_j)`` for the bias and
``W = mean((p_j - y_j) e_j^T)`` for the weight. So the count of class c is ``N (mean(p_jc) - b_c)``: exact as
soon as the mean probabilities are known. How they are found:

- one image: its class is the one with the negative gradient, Zhao, Mopuri and Bilen, "iDLG", 2020,
  https://arxiv.org/abs/2001.02610; its embedding is the ratio of W and b;
- fewer images than classes: every image's embedding is solved for, and proves the labels
  (`_label_separation`);
- otherwise from the moments of W and b (`_label_moments`), or, with many classes, class by class
  (`_label_classes`), after Ma et al., "Instance-wise Batch Label Restoration via Gradients In Federated
  Learning" (iLRG), ICLR 2023, https://openreview.net/forum?id=FIrQfNSOoTr.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fl_audit.attacks._label_classes import class_embeddings, fit_classes
from fl_audit.attacks._label_counts import neighbours
from fl_audit.attacks._label_moments import MAX_CLASSES, fit_counts
from fl_audit.attacks._label_separation import Separation, rank, separable, separate
from fl_audit.attacks._last_layer import STAND_INS, LastLayer, last_layer
from fl_audit.attacks.losses import mean_cross_entropy
from fl_audit.attacks.problem import AttackFailed, Problem

GUESSES = 12
"""Label counts that are tried for a proof, most likely first."""

FEW_STAND_INS = 16
"""Stand-ins where labels are granted: only embeddings are wanted."""

EXPLAINED = 0.9
"""Share of the gradient below which the counts are said to explain it badly."""


@dataclass(frozen=True)
class Labels:
    """Labels to work with, and what goes into the last layer for them.

    Attributes:
        values: int64 ``(N,)`` on the problem's device.
        inferred: whether they were inferred, not granted.
        embeddings: input of the last layer for each image, ``(N, D)`` float32 on the problem's device, in
            the order of ``values``; images of one label are in any order. None where nothing shows them.
        exact: whether ``embeddings`` are those of the single images, proved by a gradient that they explain
            to the last digit. Otherwise images of one label share an estimate.
        residual: norm of what labels and embeddings do not explain of the layer's gradient, relative; NaN
            without embeddings.
    """

    values: Tensor
    inferred: bool
    embeddings: Tensor | None = None
    exact: bool = False
    residual: float = math.nan


@dataclass(frozen=True)
class _Found:
    """Labels sorted by class, int64 ``(N,)``, the scale they go with, and the images if told apart."""

    values: Tensor
    scale: float
    separation: Separation | None


def find_labels(problem: Problem) -> Labels:
    """The labels granted, else inferred (sorted by class: their order within the update is unknown).

    Raises:
        AttackFailed: they are not granted and the model does not end in a trained linear layer.
    """
    if problem.labels is not None:
        return _with_embeddings(problem, problem.labels)
    if problem.loss is not mean_cross_entropy:
        raise AttackFailed(
            "the labels are not granted and cannot be inferred: that takes the clients' loss to be "
            "cross-entropy. Grant the labels (threat.labels)"
        )
    images = problem.num_images
    layer = last_layer(problem, STAND_INS if images > 1 else 2)
    found = _infer(layer, images)
    values = found.values
    embeddings, exact, residual, plausible = _embeddings(layer, found)
    _note(problem, layer, found, plausible)
    if len(problem.first_pass) > 1:
        order = _dealt(problem.first_pass)
        values, embeddings = values[order], embeddings[order]
    return Labels(
        values.to(problem.device),
        inferred=True,
        embeddings=embeddings.float().to(problem.device),
        exact=exact,
        residual=residual,
    )


def _with_embeddings(problem: Problem, values: Tensor) -> Labels:
    """Granted labels, with embeddings where the model ends in a linear layer."""
    labels = Labels(values, inferred=False)
    if problem.loss is not mean_cross_entropy:
        return labels
    try:
        layer = last_layer(problem, FEW_STAND_INS if len(values) > 1 else 2)
    except AttackFailed:
        return labels
    if len(values) > 1 and layer.scale is None:
        layer = replace(layer, scale=fit_classes(layer, len(values)).scale)
    found = _Found(values.cpu(), layer.scale or 1.0, separate(layer, values.cpu()))
    embeddings, exact, residual, _ = _embeddings(layer, found)
    return replace(
        labels, embeddings=embeddings.float().to(problem.device), exact=exact, residual=residual
    )


def _infer(layer: LastLayer, images: int) -> _Found:
    """Count the labels, and tell the images apart where that is possible."""
    if images == 1:
        value = layer.offset_gradient.argmin()[None]
        return _Found(value, layer.scale or 1.0, separate(layer, value))
    guesses, scale = _guesses(layer, images)
    every = [torch.repeat_interleave(torch.arange(layer.classes), counts) for counts in guesses]
    if separable(layer, images):
        for values in every:
            separation = separate(layer, values)
            if separation is not None and separation.proved:
                return _Found(values, separation.scale, separation)
    return _Found(every[0], scale, None)


def _guesses(layer: LastLayer, images: int) -> tuple[list[Tensor], float]:
    """Counts ``(K,)``, most likely first, and the scale of the first."""
    by_class = fit_classes(layer, images)
    fit = fit_counts(layer, images, also=by_class.scale) if layer.classes <= MAX_CLASSES else None
    if fit is None:
        eye = torch.eye(layer.classes, dtype=torch.float64)
        return neighbours(eye, by_class.real, by_class.counts, GUESSES), by_class.scale
    others = neighbours(fit.quadratic, fit.linear, fit.counts, GUESSES)
    if not torch.equal(fit.counts, by_class.counts):
        others.insert(1, by_class.counts)
    return others, fit.scale


def _embeddings(layer: LastLayer, found: _Found) -> tuple[Tensor, bool, float, float]:
    """Embeddings ``(N, D)``, whether they are exact, the relative residual, and the share that is plausible."""
    if found.separation is not None and found.separation.proved:
        return found.separation.embeddings, True, found.separation.residual, 1.0
    offset = layer.offset_gradient
    if len(found.values) == 1:
        single = offset @ layer.weight_gradient / offset.square().sum().clamp(min=1e-300)
        left = (layer.weight_gradient - offset[:, None] * single).norm() / layer.weight_gradient.norm()
        return single[None], False, float(left), 1 - float(left) ** 2
    counts = torch.bincount(found.values, minlength=layer.classes)
    each = class_embeddings(layer, counts, found.scale)
    return each.embeddings[found.values], False, each.residual, each.plausible


def _note(problem: Problem, layer: LastLayer, found: _Found, plausible: float) -> None:
    """Say what was assumed, and how far the result can be trusted."""
    images, notes = len(found.values), problem.notes
    proved = found.separation is not None and found.separation.proved
    if proved and images > 1:
        notes.append("the labels are proved: with them the last layer's gradient is explained to the last digit")
    if plausible < EXPLAINED:
        notes.append(
            f"the label counts explain only {plausible:.0%} of the last layer's gradient: they may be wrong, or "
            "the update was altered"
        )
    shown = rank(layer)
    if images < shown < layer.classes - 1:
        notes.append(
            f"the last layer's gradient shows at least {shown} images, where {images} "
            f"{'is' if images == 1 else 'are'} assumed"
        )
    if layer.scale is None and 1 < images and not proved:
        notes.append(
            "how often each label occurs is a guess: the scale of the gradient is unknown, and it shows only in "
            "how far the counts come out whole"
        )
    if layer.steps > 1:
        notes.append(
            f"the labels are counted over {layer.steps} local steps together, with the last layer half way "
            "between sent and received"
        )
    if len(problem.first_pass) > 1:
        notes.append("which label belongs to which step is unknown: they are dealt out evenly")


def _dealt(sizes: tuple[int, ...]) -> Tensor:
    """Places in a sorted list that deal it to the steps in turn, so that each has a mixture like the whole."""
    places = [(slot / size, step) for step, size in enumerate(sizes) for slot in range(size)]
    order = sorted(range(len(places)), key=lambda index: places[index])
    dealt = torch.empty(len(order), dtype=torch.int64)
    dealt[torch.tensor(order)] = torch.arange(len(order))
    return dealt
