"""The inputs of a linear layer followed by ReLU, exactly, from its gradient alone."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_audit.attacks._spear_columns import hidden, on_and_off, refine
from fl_audit.attacks._spear_factor import Factor, factorise
from fl_audit.attacks._spear_search import find_columns
from fl_audit.attacks.problem import AttackFailed

SAMPLES = 50_000
"""Directions drawn at most, unless told otherwise."""


@dataclass(frozen=True)
class Recovered:
    """Inputs of a linear layer, float64; b inputs of D values, F neurons.

    Attributes:
        inputs: ``(b, D)``; their order carries no meaning.
        output_gradient: dL/dZ up to the scale of the gradient given, ``(F, b)``: zero where the neuron is
            off.
        agreement: share of the neurons by input, ``(b,)``, whose pre-activation is positive where the
            gradient says that they are on, and not where it says that they are off; 1 for exact inputs.
        unexplained: share of the gradient, by norm, that inputs and ``output_gradient`` leave unexplained.
        samples: directions drawn.
    """

    inputs: Tensor
    output_gradient: Tensor
    agreement: Tensor
    unexplained: float
    samples: int


def recover_inputs(
    weight_gradient: Tensor,
    bias_gradient: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    generator: torch.Generator,
    expected: int | None = None,
    samples: int = SAMPLES,
    proceed: Callable[[int, int, int], bool] = lambda *_: True,
) -> Recovered:
    """Recover the inputs x of ``relu(weight x + bias)``; see `spear.Spear`.

    Args:
        weight_gradient: dL/dW, times any factor, ``(F, D)``.
        bias_gradient: dL/db, times the same factor, ``(F,)``.
        weight: W, ``(F, D)``.
        bias: ``(F,)``.
        generator: on the CPU, for the draws.
        expected: how many inputs there are, if known; the rank of the gradient overrules it.
        samples: how many directions to draw at most.
        proceed: told the columns found, the number of inputs and the directions drawn; says whether to go on.

    Raises:
        AttackFailed: the gradient is not of low rank, the columns of dL/dZ were not found, or the result is
            not finite.
    """
    factor = factorise(weight_gradient, bias_gradient, expected)
    planes = torch.cat([weight, bias[:, None]], 1).to(factor.right) @ factor.right
    directions, used = torch.ones(1, 1).to(planes), 0
    if factor.rank > 1:
        columns, used = find_columns(
            factor,
            planes,
            generator=generator,
            samples=samples,
            proceed=lambda found, drawn: proceed(found, factor.rank, drawn),
        )
        if len(columns) < factor.rank:
            raise AttackFailed(_incomplete(len(columns), factor, used))
        directions = torch.stack([column.direction for column in columns], 1)
    best = _solve(factor, planes, directions)
    if not bool(torch.isfinite(best.coordinates).all()):
        raise AttackFailed("the bias gradient of the layer is zero: its inputs are known only up to a factor")
    if factor.rank > 1:
        better = _solve(factor, planes, _by_sign(factor, best))
        best = better if better.agreement.mean() >= best.agreement.mean() else best
    return Recovered(
        inputs=best.coordinates @ factor.right[:-1].T,
        output_gradient=best.columns,
        agreement=best.agreement,
        unexplained=_unexplained(factor, best),
        samples=used,
    )


@dataclass(frozen=True)
class _Solution:
    """Directions ``(b, b)``, inputs in coordinates ``(b, b)``, their pre-activations ``(F, b)``, dL/dZ."""

    directions: Tensor
    coordinates: Tensor
    outputs: Tensor
    columns: Tensor
    agreement: Tensor


def _solve(factor: Factor, planes: Tensor, directions: Tensor) -> _Solution:
    """The inputs that belong to columns of dL/dZ: the 1 appended to an input fixes its column's scale."""
    rows = torch.linalg.inv(directions)
    scale = rows @ factor.right[-1]
    coordinates = rows / scale[:, None]
    outputs = planes @ coordinates.T
    found = factor.left @ directions
    on, off, clarity = on_and_off(found.T, factor.noise * directions.norm(dim=0)[:, None])
    positive = outputs > 0
    wrong = positive.clone()  # dead neurons are off for all
    wrong[factor.live] = (positive[factor.live] & off.T) | (~positive[factor.live] & on.T)
    columns = torch.zeros_like(outputs)
    columns[factor.live] = found * scale
    share = (wrong.double().mean(0) - hidden(on, clarity)).clamp(min=0)
    return _Solution(directions, coordinates, outputs, columns * positive, 1 - share)


def _by_sign(factor: Factor, solution: _Solution) -> Tensor:
    """The directions again, from all neurons that are off by the sign of their pre-activation."""
    refined = [refine(factor.signal, off) for off in (solution.outputs[factor.live] <= 0).T]
    kept = [
        solution.directions[:, place] if column is None else column.direction
        for place, column in enumerate(refined)
    ]
    return torch.stack(kept, 1)


def _unexplained(factor: Factor, solution: _Solution) -> float:
    """Share of the gradient that is not ``columns inputs^T``, by norm."""
    missed = factor.left - solution.columns[factor.live] @ solution.coordinates
    inside = float(missed.norm() / factor.left.norm())
    return float((inside**2 + factor.unexplained**2) ** 0.5)


def _incomplete(found: int, factor: Factor, used: int) -> str:
    return (
        f"{found} of {factor.rank} images were found in {used} draws: too many images for the "
        f"{len(factor.left)} neurons that moved, images or gradients that are too much alike, too much "
        "noise, or dropout between the layer and the loss. Raise samples, or use an attack that optimises"
    )
