"""Every image's own embedding from the last layer's gradient, where it has more classes than images.

With embeddings ``e_j``, residuals ``r_j = softmax(weight e_j + bias) - y_j`` and the gradient of the mean
cross-entropy, ``N W = sum_j r_j e_j^T``: for fewer images than classes a matrix of rank N. So the embeddings
lie in its row space, of N dimensions, and N x N coordinates solve K x N equations: given the labels, images
of one class are told apart too, and a residual of zero proves labels and embeddings alike. Solved by
Levenberg and Marquardt.

That a low-rank gradient holds its inputs was shown for ReLU layers by Dimitrov et al., "SPEAR: Exact Gradient
Inversion of Batches in Federated Learning", NeurIPS 2024, https://arxiv.org/abs/2403.03945, and by
independent components by Kariyappa et al., "Cocktail Party Attack", ICML 2023,
https://arxiv.org/abs/2209.05578. Here the softmax of the last layer takes the place of sparsity or
independence: its residuals are a known function of the embeddings.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_audit.attacks._last_layer import LastLayer
from fl_audit.core.seeding import torch_generator

MAX_IMAGES = 24
"""The work grows with the sixth power of the images."""

PROOF = 1e-4
"""Relative residual at which labels and embeddings count as proved; wrong labels leave 1e-2 and more."""

ENOUGH = 1e-8
"""Relative residual at which the solver stops."""

STEPS = 60
"""Of the solver."""

HOPELESS = 1e-2
"""Relative residual above which slow progress ends the search, and what counts as slow, relative."""


@dataclass(frozen=True)
class Separation:
    """Embeddings of single images.

    Attributes:
        embeddings: ``(N, D)`` in the order of the labels given; those of one class are in any order.
        residual: relative distance between the gradient seen and that of the embeddings.
        scale: factor on the mean gradient.
    """

    embeddings: Tensor
    residual: float
    scale: float

    @property
    def proved(self) -> bool:
        """Whether the gradient is explained to the last digit."""
        return self.residual < PROOF


@dataclass(frozen=True)
class _System:
    """The equations in coordinates of the row space.

    Attributes:
        basis: ``(D, r)``, with a row of the offset where the bias is trained ``(D + 1, r)``; orthonormal.
        target: ``N W basis``, ``(K, r)``.
        slopes: logits by coordinates, ``(K, r)``.
        bias: added to the logits; zero where it is part of ``slopes``.
        ones: what the coordinates of each image multiply to 1 with, ``(r,)``; None without a trained bias.
        labels: one-hot ``(N, K)``.
    """

    basis: Tensor
    target: Tensor
    slopes: Tensor
    bias: Tensor
    ones: Tensor | None
    labels: Tensor


@dataclass(frozen=True)
class _State:
    """Where the solver is.

    Attributes:
        coordinates: of the embeddings, ``(N, r)``.
        inverse: of the scale.
        likely: probabilities ``(N, K)``.
        residuals: ``(N, K)``.
        errors: of all equations, relative to the gradient.
        cost: the sum of their squares.
    """

    coordinates: Tensor
    inverse: float
    likely: Tensor
    residuals: Tensor
    errors: Tensor
    cost: float


def separable(layer: LastLayer, images: int) -> bool:
    """Whether there are few enough images, they all show, and wrong labels would leave a residual.

    Columns of the gradient add up to zero, so that one class of K says nothing new; a trained bias gives
    every image an equation more, and an unknown scale is one more unknown. With no more equations than
    unknowns wrong labels can be solved for as well: without a bias, K - 1 images cannot be told.
    """
    equations = (layer.classes - 1 + (layer.bias_gradient is not None)) * images
    unknowns = images**2 + (layer.scale is None)
    few = images <= min(MAX_IMAGES, layer.classes - 1)
    return few and equations > unknowns and layer.rank >= images


def separate(layer: LastLayer, labels: Tensor, tries: int) -> Separation:
    """Tell the images apart: the best of several starts.

    Args:
        layer: the last layer, `separable`.
        labels: int64 ``(N,)``.
        tries: starts, at least 1; one that proves the labels is the last.
    """
    system = _system(layer, labels)
    found = []
    for start in _starts(layer, labels, tries):
        state = _solve(system, start @ system.basis, layer.scale)
        embeddings = (state.coordinates @ system.basis.T)[:, : layer.weight.shape[1]]
        found.append(Separation(embeddings, math.sqrt(state.cost), 1 / state.inverse))
        if found[-1].proved:
            break
    return min(found, key=lambda separation: separation.residual)


def _system(layer: LastLayer, labels: Tensor) -> _System:
    images, gradient = len(labels), layer.extended
    left, values, right = torch.linalg.svd(gradient, full_matrices=False)
    basis = right[:images].T
    trained = layer.bias_gradient is not None
    weight = torch.cat([layer.weight, layer.bias[:, None]], 1) if trained else layer.weight
    return _System(
        basis=basis,
        target=images * left[:, :images] * values[:images],
        slopes=weight @ basis,
        bias=torch.zeros_like(layer.bias) if trained else layer.bias,
        ones=basis[-1] if trained else None,
        labels=torch.nn.functional.one_hot(labels, layer.classes).double(),
    )


def _starts(layer: LastLayer, labels: Tensor, tries: int) -> list[Tensor]:
    """Stand-ins weighted by how likely their class is: their mean with a little of one, then single ones."""
    generator = torch_generator(0, "separation")
    shown = layer.embeddings
    weights = layer.probabilities(shown).T[labels].clamp(min=1e-12)
    mean = weights / weights.sum(1, keepdim=True) @ shown
    starts = []
    for attempt in range(tries):
        drawn = shown[torch.multinomial(weights, 1, generator=generator)[:, 0]]
        start = drawn if attempt else mean + 0.1 * (drawn - layer.typical)
        if layer.bias_gradient is not None:
            start = torch.cat([start, start.new_ones(len(start), 1)], 1)
        starts.append(start)
    return starts


def _solve(system: _System, start: Tensor, scale: float | None) -> _State:
    """Levenberg and Marquardt; an unknown scale is one more unknown."""
    free = scale is None
    now = _state(system, start, 1 / scale if scale is not None else _inverse_scale(system, start))
    damping = 1e-2
    for _ in range(STEPS):
        jacobian = _jacobian(system, now, free)
        normal, slope = jacobian.T @ jacobian, jacobian.T @ now.errors
        size = normal.diagonal()
        for _ in range(6):
            damped = normal + torch.diag(damping * size + 1e-14 * size.max() + 1e-300)
            step = torch.linalg.solve(damped, -slope)
            move = step[: start.numel()].view_as(start)
            factor = math.exp(max(min(float(step[-1]), 1.0), -1.0)) if free else 1.0
            new = _state(system, now.coordinates + move, now.inverse * factor)
            if new.cost < now.cost:
                break
            damping *= 4
        else:
            break
        damping = max(damping / 5, 1e-10)
        gained, now = now.cost - new.cost, new
        slow = HOPELESS if now.cost > HOPELESS**2 else 1e-9
        if now.cost < ENOUGH**2 or gained < slow * now.cost:
            break
    return now


def _inverse_scale(system: _System, coordinates: Tensor) -> float:
    """The factor that takes the gradient seen nearest to that of ``coordinates``."""
    residuals = (coordinates @ system.slopes.T + system.bias).softmax(1) - system.labels
    made = residuals.T @ coordinates
    along = float((made * system.target).sum() / system.target.square().sum())
    size = float(made.norm() / system.target.norm())
    return max(along, 0.1 * size, 1e-30)


def _state(system: _System, coordinates: Tensor, inverse: float) -> _State:
    likely = (coordinates @ system.slopes.T + system.bias).softmax(1)
    residuals = likely - system.labels
    target = inverse * system.target
    errors = ((residuals.T @ coordinates - target) / target.norm()).flatten()
    if system.ones is not None:
        offset = (coordinates @ system.ones - 1) / math.sqrt(len(coordinates))
        errors = torch.cat([errors, offset])
    cost = float(errors @ errors)
    return _State(coordinates, inverse, likely, residuals, errors, cost if math.isfinite(cost) else math.inf)


def _jacobian(system: _System, now: _State, free: bool) -> Tensor:
    """Derivative of the errors by the coordinates and, if ``free``, by the logarithm of the inverse scale."""
    images, width = now.coordinates.shape
    size = now.inverse * float(system.target.norm())
    softmax = torch.diag_embed(now.likely) - now.likely[:, :, None] * now.likely[:, None, :]
    equations = torch.einsum("jcl,jk->ckjl", softmax @ system.slopes, now.coordinates)
    places = torch.arange(width)
    equations[:, places, :, places] += now.residuals.T
    blocks = [equations.reshape(-1, images * width) / size]
    if system.ones is not None:
        offsets = system.ones.new_zeros(images, images, width)
        offsets[torch.arange(images), torch.arange(images)] = system.ones / math.sqrt(images)
        blocks.append(offsets.reshape(images, images * width))
    jacobian = torch.cat(blocks)
    if not free:
        return jacobian
    made = -(now.residuals.T @ now.coordinates).flatten() / size
    scale = torch.cat([made, made.new_zeros(len(jacobian) - len(made))])
    return torch.cat([jacobian, scale[:, None]], 1)
