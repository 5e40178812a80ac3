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

from dataclasses import dataclass

import torch
from torch import Tensor

from fl_audit.attacks._label_classes import fit_classes
from fl_audit.attacks._label_counts import neighbours
from fl_audit.attacks._label_moments import MAX_CLASSES, fit_counts
from fl_audit.attacks._label_separation import separable, separate
from fl_audit.attacks._last_layer import LastLayer, last_layer
from fl_audit.attacks.losses import mean_cross_entropy
from fl_audit.attacks.problem import AttackFailed, Problem

GUESSES = 8
"""Label counts that are tried for a proof, most likely first."""

TRIES = 3
"""Starts of the proof of the likeliest counts; the others have one."""


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
    layer, images = last_layer(problem), problem.num_images
    values, proved = infer(layer, images)
    _note(problem, layer, proved=proved)
    if len(problem.first_pass) > 1:
        values = values[_dealt(problem.first_pass)]
    return Labels(values.to(problem.device), inferred=True)


def infer(layer: LastLayer, images: int) -> tuple[Tensor, bool]:
    """Labels sorted by class, int64 ``(N,)``, and whether the gradient proves them to the last digit."""
    if images == 1:
        return layer.offset_gradient.argmin()[None], False
    every = [torch.repeat_interleave(torch.arange(layer.classes), n) for n in _guesses(layer, images)]
    if layer.steps == 1 and separable(layer, images):
        for place, values in enumerate(every):
            if separate(layer, values, 1 if place else TRIES).proved:
                return values, True
    return every[0], False


def _guesses(layer: LastLayer, images: int) -> list[Tensor]:
    """Counts ``(K,)``, most likely first."""
    by_class = fit_classes(layer, images)
    # Where weights move from step to step, few images do not average out, and their own embeddings say more.
    moved = layer.steps > 1 and images < layer.classes
    few = layer.classes <= MAX_CLASSES and not moved
    fit = fit_counts(layer, images, also=by_class.scale) if few else None
    if fit is None:
        eye = torch.eye(layer.classes, dtype=torch.float64)
        return neighbours(eye, by_class.real, by_class.counts, GUESSES)
    others = neighbours(fit.quadratic, fit.linear, fit.counts, GUESSES)
    if not torch.equal(fit.counts, by_class.counts):
        others.insert(1, by_class.counts)
    return others


def _note(problem: Problem, layer: LastLayer, *, proved: bool) -> None:
    """Say what was assumed, and how far the result can be trusted."""
    images, notes = problem.num_images, problem.notes
    if proved:
        notes.append(
            "the labels are proved: with them the last layer's gradient is explained to the last digit"
        )
    if images < layer.rank < layer.classes - 1:
        notes.append(
            f"the last layer's gradient shows at least {layer.rank} images, where {images} "
            f"{'is' if images == 1 else 'are'} assumed"
        )
    if layer.scale is None and images > 1 and not proved:
        notes.append(
            "how often each label occurs is a guess: the scale of the gradient is unknown, and it shows only "
            "in how far the counts come out whole"
        )
    if layer.steps > 1:
        notes.append(
            f"the labels are counted over {layer.steps} local steps together, with the last layer half way "
            "between sent and received"
        )
    if len(problem.first_pass) > 1:
        notes.append("which label belongs to which step is unknown: they are dealt out evenly")


def _dealt(sizes: tuple[int, ...]) -> Tensor:
    """Places in a sorted list that deal it to the steps in turn, each step a mixture like the whole."""
    places = [(slot / size, step) for step, size in enumerate(sizes) for slot in range(size)]
    order = sorted(range(len(places)), key=lambda index: places[index])
    dealt = torch.empty(len(order), dtype=torch.int64)
    dealt[torch.tensor(order)] = torch.arange(len(order))
    return dealt
