"""A start from what the gradient of a linear layer shows of each image: feature inversion."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fl_audit.attacks._features import Features, find_features
from fl_audit.attacks.labels import Labels
from fl_audit.attacks.optimisers import SignedAdam
from fl_audit.attacks.priors import total_variation
from fl_audit.attacks.problem import Problem
from fl_audit.attacks.schedules import CosineDecay
from fl_audit.attacks.starts import MeanImage, Start

SHARE = 0.2
"""Share of the time that is left which a start may take."""

TINY = 1e-20
"""Keeps a distance that is zero at the start from dividing by zero."""


@dataclass(frozen=True)
class FeatureInversion:
    """Images whose features are those that the gradient shows, found by a short descent.

    A linear layer's gradient holds its inputs: exactly for one image and for fewer images than classes, else
    as a mean of each class (`find_features`). An image that gives these inputs is found by matching them with
    a total variation prior, which takes a forward and a backward pass where matching gradients takes both
    twice: Mahendran and Vedaldi, "Understanding Deep Image Representations by Inverting Them", CVPR 2015,
    https://arxiv.org/abs/1412.0035, equation 1. Features as the way to a client's image: Wen et al., "Fishing
    for User Data in Large-Batch Federated Learning via Gradient Magnification", ICML 2022,
    https://arxiv.org/abs/2202.00580, section 4. Differs from the first in: signed Adam in the pixel box and
    anisotropic total variation, as in the descent that follows; the distance is relative to that at the
    start. From the second: the server is honest, and does not magnify a class.

    Attributes:
        iterations: steps of the descent.
        rate: first step size, in pixel values of [0, 1].
        tv: weight of the total variation beside the squared distance of features, which is 1 at the start.
        start: where the descent begins.
    """

    iterations: int = 150
    rate: float = 0.1
    tv: float = 0.03
    start: Start = MeanImage()

    def __call__(self, problem: Problem, labels: Labels) -> Tensor:
        """See `Start`.

        Raises:
            AttackFailed: no linear layer shows the features; the message says why.
        """
        features = find_features(problem, labels)
        _note(problem, features)
        images = self.start(problem, labels).to(problem.device).requires_grad_()
        optimiser, schedule = SignedAdam(self.rate, 0.5).build(images), CosineDecay()
        clock, first = problem.clock.part(SHARE), None
        for iteration in range(self.iterations):
            if clock.over():
                break
            apart = feature_distance(features_of(problem, features.layer, images), features)
            first = apart.detach().clamp(min=TINY) if first is None else first
            total = apart / first + self.tv * total_variation(images[None])[0]
            (images.grad,) = torch.autograd.grad(total, images)
            optimiser.param_groups[0]["lr"] = self.rate * schedule(iteration / self.iterations)
            optimiser.step()
            with torch.no_grad():
                images.clamp_(0, 1)
        return images.detach().cpu()


def feature_distance(made: Tensor, features: Features) -> Tensor:
    """Mean squared distance of features to their targets, a scalar.

    Args:
        made: features of the images, ``(N, D)``; those of one target are averaged.
        features: the targets.
    """
    sums = made.new_zeros(features.targets.shape).index_add(0, features.members, made)
    means = sums / features.members.bincount(minlength=len(sums))[:, None]
    return (means - features.targets).square().mean()


def features_of(problem: Problem, layer: str, images: Tensor) -> Tensor:
    """Input ``(N, D)`` of a linear layer for images ``(N, C, H, W)``, step by step as the client saw them."""
    seen: list[Tensor] = []
    module = problem.model.get_submodule(layer)
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        for part in torch.split(images, list(problem.first_pass)):
            problem.logits(problem.parameters, part)
    finally:
        handle.remove()
    return torch.cat(seen)


def _note(problem: Problem, features: Features) -> None:
    """Say how good the features are."""
    said = f"the start matches the input of {features.layer!r}, which the update shows "
    if features.exact:
        said += "exactly"
    else:
        each = "" if len(features.targets) == len(features.members) else ", as a mean of each class"
        said += (
            f"approximately{each}: {features.unexplained:.1%} of that layer's gradient is left unexplained"
        )
    if len(problem.step_sizes) > 1:
        said += f"; it is the mean over {len(problem.step_sizes)} local steps"
    if said not in problem.notes:
        problem.notes.append(said)
