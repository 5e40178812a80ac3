"""What the client would have sent for given images: the attacker's differentiable copy of its training."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad

from fl_audit.attacks.objectives import fitted_squared_error
from fl_audit.attacks.problem import AttackFailed, Named, Problem
from fl_audit.attacks.unroll import unroll

Gradient = Callable[[Problem, Named, Tensor, Tensor], Named]
"""Gradient of the loss by parameter name, for parameters, images and labels."""


def simulate(problem: Problem, images: Tensor, labels: Tensor, *, gradient: Gradient | None = None) -> Named:
    """Simulate the local training on ``images`` and return what `Problem.observed` should be.

    One step of SGD gives the gradient of the loss; everything else unrolls the client's optimiser and gives
    ``start - end``.

    Args:
        problem: the problem.
        images: ``(N, C, H, W)`` in order of first use.
        labels: int64 ``(N,)``.
        gradient: how to differentiate; the default is autograd's tape, `functional_gradient` is for
            `torch.func.vmap`.

    Returns:
        By parameter name; differentiable once in ``images``.
    """
    if problem.cohort:
        return _mean(problem, images, labels, functional=gradient is functional_gradient)
    if problem.uses is not None:
        images, labels = images[problem.uses], labels[problem.uses]
    if problem.is_gradient:
        return (gradient or taped_gradient)(problem, problem.parameters, images, labels)
    return unroll(problem.unrolling(functional=gradient is functional_gradient), images, labels)


def _mean(problem: Problem, images: Tensor, labels: Tensor, *, functional: bool) -> Named:
    """The weighted mean of what each client of the cohort would have sent."""
    sizes = [member.problem.num_images for member in problem.cohort]
    total = {name: torch.zeros_like(value) for name, value in problem.parameters.items()}
    parts = zip(torch.split(images, sizes), torch.split(labels, sizes), strict=True)
    for member, (part, marks) in zip(problem.cohort, parts, strict=True):
        own = member.problem
        if own.uses is not None:
            part, marks = part[own.uses], marks[own.uses]
        moved = unroll(own.unrolling(functional=functional), part, marks)
        total = {name: value + member.weight * moved[name] for name, value in total.items()}
    return total


def misfit_of(problem: Problem, images: Tensor, labels: Tensor) -> float:
    """Relative squared error of the update simulated for ``images``, with the best factor; inf if NaN."""
    images = images.to(problem.device).float().clamp(0, 1)
    simulated = simulate(problem, images, labels.to(problem.device))
    error = fitted_squared_error([v[None] for v in simulated.values()], list(problem.observed.values()))
    value = float(error.detach())
    return value if math.isfinite(value) else math.inf


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


def taped_gradient(problem: Problem, parameters: Named, images: Tensor, labels: Tensor) -> Named:
    """Gradient of the loss by autograd; parameters that play no part get zeros."""
    parameters = {
        name: value if value.requires_grad else value.detach().requires_grad_()
        for name, value in parameters.items()
    }
    gradients = torch.autograd.grad(
        problem.loss_at(parameters, images, labels),
        list(parameters.values()),
        create_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    return dict(zip(parameters, gradients, strict=True))


def functional_gradient(problem: Problem, parameters: Named, images: Tensor, labels: Tensor) -> Named:
    """The same under `torch.func`, for use inside vmap."""
    gradients: Named = grad(lambda values: problem.loss_at(values, images, labels))(parameters)
    return gradients
