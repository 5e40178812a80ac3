"""What a linear layer saw of each image, read from its gradient: the target of a feature inversion.

The gradient of a linear layer is ``W = sum_j d_j x_j^T`` and ``b = sum_j d_j`` over images j with inputs
``x_j``. For one image x is the ratio of the two at any linear layer, and the first one tells most. For
several images the last layer's residuals are known functions of its inputs, so that every image's own are
solved for where there are fewer images than classes (`_label_separation`), and the mean ones of each class
elsewhere (`_label_classes`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fl_audit.attacks._failed import AttackFailed
from fl_audit.attacks._image_count import plain_linear
from fl_audit.attacks._label_classes import fit_classes
from fl_audit.attacks._label_separation import separable, separate
from fl_audit.attacks._last_layer import LastLayer, last_layer
from fl_audit.attacks.analytic import single_input, unexplained
from fl_audit.attacks.labels import Labels
from fl_audit.attacks.problem import Problem

EXACT = 1e-3
"""Share of a layer's gradient, by norm, that exact features may leave unexplained: rounding."""

EXPLAINED = 0.3
"""The same for features that are worth a start; beyond, noise or other images are most of them."""

TRIES = 3
"""Starts of the separation of several images."""


@dataclass(frozen=True)
class Features:
    """Inputs of a linear layer.

    Attributes:
        layer: its name in the model.
        targets: float32 ``(G, D)`` on the problem's device: of each image, or the mean of those of a class.
        members: int64 ``(N,)``: which of them each image belongs to.
        unexplained: share of the layer's gradient, by norm, that they leave unexplained.
    """

    layer: str
    targets: Tensor
    members: Tensor
    unexplained: float

    @property
    def exact(self) -> bool:
        """Whether each image has features of its own, and they explain the gradient."""
        return len(self.targets) == len(self.members) and self.unexplained <= EXACT


def find_features(problem: Problem, labels: Labels) -> Features:
    """The features of the images with ``labels``.

    Raises:
        AttackFailed: no linear layer shows them; the message says why.
    """
    if problem.num_images == 1:
        found = _of_one_image(problem)
        if found is not None:
            return found
    try:
        layer = last_layer(problem)
    except AttackFailed:
        raise AttackFailed(
            "no features to start from (start=features): the model does not end in a linear layer that the "
            "clients train. Use another start"
        ) from None
    marks = labels.values.cpu()
    found = _of_each(layer, marks) or (_of_classes(layer, marks) if problem.num_images > 1 else None)
    if found is None:
        why = (
            "no linear layer with a bias that the clients train shows one image"
            if problem.num_images == 1
            else f"most of the gradient of the last layer {layer.name!r} is not that of {len(marks)} images: "
            "noise or compression"
        )
        raise AttackFailed(f"no features to start from (start=features): {why}. Use another start")
    return Features(
        found.layer,
        found.targets.to(problem.device, torch.float32),
        found.members.to(problem.device),
        found.unexplained,
    )


def _of_one_image(problem: Problem) -> Features | None:
    """Input of the first linear layer whose gradient is that of one image."""
    for name in plain_linear(problem.model, problem.image_shape):
        weight, bias = (problem.observed.get(f"{name}.{kind}".lstrip(".")) for kind in ("weight", "bias"))
        if weight is None or bias is None or not bool(bias.any()):
            continue
        values = single_input(weight.double(), bias.double())[None]
        left = unexplained(weight.double(), bias.double(), values)
        if left <= EXPLAINED:
            one = torch.zeros(1, dtype=torch.int64, device=problem.device)
            return Features(name, values.float(), one, left)
    return None


def _of_each(layer: LastLayer, labels: Tensor) -> Features | None:
    """Input of the last layer for every image, where that is proved."""
    if layer.steps > 1 or not separable(layer, len(labels)):
        return None
    found = separate(layer, labels, TRIES)
    if not found.proved:
        return None
    return Features(layer.name, found.embeddings, torch.arange(len(labels)), found.residual)


def _of_classes(layer: LastLayer, labels: Tensor) -> Features | None:
    """Mean input of the last layer for the images of each class, roughly."""
    counts = torch.bincount(labels, minlength=layer.classes)
    fit = fit_classes(layer, len(labels), counts=counts)
    left = fit.misfit**0.5
    if not left <= EXPLAINED:
        return None
    present = counts.nonzero()[:, 0]
    return Features(layer.name, fit.embeddings[present], torch.searchsorted(present, labels), left)
