"""Where R-GAP begins: the input of the last linear layer, the label, and the gradient's scale."""

import math
from dataclasses import dataclass

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from fl_audit.attacks._r_gap_chain import Link
from fl_audit.attacks.problem import AttackFailed, Problem

SIZES = torch.logspace(-4, 4, 321, dtype=torch.float64)
"""Lengths tried for the input of a last layer without bias."""


@dataclass(frozen=True)
class LastInput:
    """What the last layer shows; float64 on the CPU.

    Attributes:
        values: its input, ``(D,)``.
        upper: gradient of the loss at that input, ``(D,)``.
        scale: factor on the true gradient that the observed one has.
        label: the image's.
        residual: share of the layer's gradient that these do not explain.
    """

    values: Tensor
    upper: Tensor
    scale: float
    label: int
    residual: float


def last_input(problem: Problem, link: Link) -> LastInput:
    """Read the last layer: its weight's gradient is ``scale (p - y) x^T``, its bias's ``scale (p - y)``.

    With a bias the ratio of the two is x, whatever the scale. Without one x is known but for its length t,
    which follows from ``p = softmax(t W u)``; with two classes that needs the scale.

    Raises:
        AttackFailed: neither shows.
    """
    weight = link.module.weight.detach().to("cpu", torch.float64)
    bias = weight.new_zeros(len(weight))
    if link.module.bias is not None:
        bias = link.module.bias.detach().to("cpu", torch.float64)
    gradient = problem.observed[f"{link.name}.weight".lstrip(".")].to("cpu", torch.float64)
    offsets = problem.observed.get(f"{link.name}.bias".lstrip("."))
    granted = None if problem.labels is None else int(problem.labels[0])
    if offsets is not None:
        shown = offsets.to("cpu", torch.float64)
        values = shown @ gradient / shown.square().sum()
    else:
        values = _by_length(problem, gradient, weight, bias, granted)
        shown = gradient @ values / values.square().sum()
    label = int(shown.argmin()) if granted is None else granted
    errors = (weight @ values + bias).softmax(0)
    errors[label] -= 1
    scale = float(shown @ errors / errors.square().sum())
    if not (scale > 0 and math.isfinite(scale)):
        raise AttackFailed(
            f"the gradient of the last layer {link.name!r} is not that of one image: no label explains it"
        )
    residual = float((gradient - scale * torch.outer(errors, values)).norm() / gradient.norm())
    if residual > 0.01:
        problem.notes.append(
            f"{residual:.0%} of the last layer's gradient is not that of one image: noise, compression, or "
            "more images"
        )
    return LastInput(values, weight.T @ errors, scale, label, residual)


def _by_length(
    problem: Problem, gradient: Tensor, weight: Tensor, bias: Tensor, granted: int | None
) -> Tensor:
    """The input of a last layer without bias gradient."""
    if len(weight) == 2 and not problem.exact_scale:
        raise AttackFailed(
            "the last layer has no bias and two classes: the length of its input does not show without the "
            "scale of the gradient, which is known where the training details are granted (threat.level) and "
            "it was not clipped"
        )
    _, _, right = torch.linalg.svd(gradient, full_matrices=False)
    shown = gradient @ right[0]
    # p - y is negative for the label alone, and largest there.
    label = int(shown.abs().argmax()) if granted is None else granted
    sign = -1.0 if shown[label] > 0 else 1.0
    direction, shown = sign * right[0], sign * shown

    def misfit(logarithm: float) -> float:
        length = math.exp(logarithm)
        errors = (length * (weight @ direction) + bias).softmax(0)
        errors[label] -= 1
        if problem.exact_scale:
            return float((length * errors - shown).norm() / shown.norm())
        return 1 - float(torch.nn.functional.cosine_similarity(errors, shown, dim=0))

    grid = SIZES.log().tolist()
    best = min(range(len(grid)), key=lambda place: misfit(grid[place]))
    around = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    found = minimize_scalar(misfit, bounds=around, method="bounded", options={"xatol": 1e-12})
    result: Tensor = direction * math.exp(float(found.x))
    return result
