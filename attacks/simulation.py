"""What the client would have sent for given images: the attacker's differentiable copy of its training."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import functional_call, grad
from torch.nn.functional import cross_entropy

from fl_audit.attacks.problem import AttackFailed, Named, Problem

Gradient = Callable[[Problem, Named, Tensor, Tensor], Named]
"""Gradient of the loss by parameter name, for parameters, images and labels."""


def simulate(problem: Problem, images: Tensor, labels: Tensor, *, gradient: Gradient | None = None) -> Named:
    """Simulate the local training on ``images`` and return what `Problem.observed` should be.

    One step gives the gradient of the mean cross-entropy; several steps unroll SGD with momentum and
    weight decay as `torch.optim.SGD` does it (no dampening, no Nesterov) and give ``start - end``.

    Args:
        problem: the problem.
        images: ``(N, C, H, W)`` in order of use.
        labels: int64 ``(N,)``.
        gradient: how to differentiate; the default is autograd's tape.

    Returns:
        By parameter name; differentiable in ``images``.
    """
    sizes = problem.step_sizes
    gradient = gradient or taped_gradient
    start = problem.parameters
    if len(sizes) == 1:
        return gradient(problem, start, images, labels)
    training = problem.training
    if training is None:
        raise ValueError("several steps cannot be simulated without the training details")
    current, buffers = start, dict[str, Tensor]()
    for part, marks in zip(torch.split(images, list(sizes)), torch.split(labels, list(sizes)), strict=True):
        step = gradient(problem, current, part, marks)
        if training.weight_decay:
            step = {name: g + training.weight_decay * current[name] for name, g in step.items()}
        if training.momentum:
            step = {name: training.momentum * buffers[name] + g if buffers else g for name, g in step.items()}
            buffers = step
        current = {name: value - training.learning_rate * step[name] for name, value in current.items()}
    return {name: start[name] - current[name] for name in start}


def check_differentiable(problem: Problem, labels: Tensor) -> None:
    """Raise `AttackFailed` unless the simulated update depends on the images in a differentiable way."""
    shape = (problem.num_images, *problem.image_shape)
    images = torch.linspace(0.2, 0.8, torch.Size(shape).numel(), device=problem.device).view(shape)
    images = images.requires_grad_()
    try:
        total = torch.stack([value.square().sum() for value in simulate(problem, images, labels).values()])
        (slope,) = torch.autograd.grad(total.sum(), images, allow_unused=True)
    except RuntimeError as error:
        reason = str(error).split("\n", 1)[0]
        raise AttackFailed(f"the model has no differentiable path to its gradient: {reason}") from error
    if slope is None or not bool(slope.any()):
        raise AttackFailed("the model has no differentiable path: its gradient does not depend on the image")


def _loss(problem: Problem, parameters: Named, images: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the model at ``parameters``."""
    logits: Tensor = functional_call(problem.model, {**problem.constants, **parameters}, (images,))
    return cross_entropy(logits, labels)


def taped_gradient(problem: Problem, parameters: Named, images: Tensor, labels: Tensor) -> Named:
    """Gradient of the loss by autograd; parameters that play no part get zeros."""
    parameters = {
        name: value if value.requires_grad else value.detach().requires_grad_()
        for name, value in parameters.items()
    }
    gradients = torch.autograd.grad(
        _loss(problem, parameters, images, labels),
        list(parameters.values()),
        create_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    return dict(zip(parameters, gradients, strict=True))


def functional_gradient(problem: Problem, parameters: Named, images: Tensor, labels: Tensor) -> Named:
    """The same under `torch.func`, for use inside vmap."""
    gradients: Named = grad(lambda values: _loss(problem, values, images, labels))(parameters)
    return gradients
