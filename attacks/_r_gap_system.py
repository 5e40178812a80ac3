"""The linear equations for the input of one convolution, and their least-squares solution.

With ``k`` the gradient at the layer's output ``z``, the input x solves ``conv(x, W) = z - bias`` (weight
constraints) and ``d<k, conv(x, V)>/dV = dL/dW`` (gradient constraints): both are linear in x. They are
never written out as a matrix; products with it and its transpose are convolutions and their derivatives, so
memory stays that of the layer.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, lsmr
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.nn.grad import conv2d_input, conv2d_weight

TOLERANCE = 1e-9
"""Relative accuracy of the solution: far beyond what a float32 gradient determines."""

CONDITION = 1e8
"""Condition number at which the solver stops: directions weaker than that are rounding."""


@dataclass(frozen=True)
class Solution:
    """The input of one layer.

    Attributes:
        values: ``(D,)`` float64.
        residual: what the equations leave unexplained, relative; 0 if consistent.
        undetermined: estimate of how many of the D unknowns the equations leave free: the rank deficiency;
            NaN if not asked for.
    """

    values: Tensor
    residual: float
    undetermined: float


@dataclass(frozen=True)
class System:
    """The equations of one layer, all tensors float64 on the CPU.

    Attributes:
        module: the convolution; its bias is not used.
        shape: of its input without the batch axis.
        weight: as sent.
        output: ``z - bias``, in the shape of the layer's output without the batch axis.
        trust: weight of each entry of ``output``, same shape; 0 where it is not known.
        upper: gradient of the loss at the layer's output, same shape.
        gradient: of the weight.
    """

    module: nn.Module
    shape: tuple[int, ...]
    weight: Tensor
    output: Tensor
    trust: Tensor
    upper: Tensor
    gradient: Tensor

    @cached_property
    def _plain(self) -> dict[str, Any] | None:
        """How to run it directly, without the cost of differentiating a module; None: as a module."""
        module = self.module
        if type(module) is not nn.Conv2d or module.padding_mode != "zeros" or isinstance(module.padding, str):
            return None
        names = ("stride", "padding", "dilation", "groups")
        return {name: getattr(module, name) for name in names}

    def convolve(self, inputs: Tensor, weight: Tensor) -> Tensor:
        """The layer without bias: inputs ``shape`` to outputs."""
        if self._plain is not None:
            return conv2d(inputs[None], weight, None, **self._plain)[0]
        parts = {"weight": weight}
        if getattr(self.module, "bias", None) is not None:
            parts["bias"] = weight.new_zeros(len(weight))
        result: Tensor = torch.func.functional_call(self.module, parts, (inputs[None],))
        return result[0]

    def weight_equations(self, inputs: Tensor) -> Tensor:
        """Left-hand side of the weight constraints, each times its trust."""
        return (self.convolve(inputs, self.weight) * self.trust).flatten()

    def gradient_equations(self, inputs: Tensor) -> Tensor:
        """Left-hand side of the gradient constraints."""
        if self._plain is not None:
            form, inputs, upper = self.weight.shape, inputs[None], self.upper[None]
            made: Tensor = conv2d_weight(inputs, form, upper, **self._plain)  # type: ignore[no-untyped-call]
            return made.flatten()
        weight = self.weight.clone().requires_grad_()
        (value,) = torch.autograd.grad(self.convolve(inputs, weight), weight, self.upper)
        return value.flatten()

    def backward(self, outputs: Tensor, weight: Tensor) -> Tensor:
        """Transposed layer: ``outputs`` in the shape of the output to the shape of the input."""
        if self._plain is not None:
            form, outputs = (1, *self.shape), outputs[None]
            made: Tensor = conv2d_input(form, weight, outputs, **self._plain)  # type: ignore[no-untyped-call]
            return made[0]
        inputs = torch.zeros(self.shape, dtype=torch.float64).requires_grad_()
        (value,) = torch.autograd.grad(self.convolve(inputs, weight), inputs, outputs)
        return value


def solve(
    system: System,
    start: Tensor,
    *,
    iterations: int,
    generator: torch.Generator,
    rank: Literal["estimated", "unknown"] = "estimated",
) -> Solution:
    """Least squares nearest to ``start``: what the equations leave free stays as it is there.

    The two kinds of equations are brought to one size, since gradients are orders of magnitude smaller than
    weights. LSMR: Fong and Saunders, "LSMR: An Iterative Algorithm for Sparse Least-Squares Problems", SIAM
    Journal on Scientific Computing 2011. The number of free unknowns is Hutchinson's estimate of the trace of
    the projection on the null space, from one random vector.

    Args:
        system: the equations.
        start: ``(D,)`` float64.
        iterations: of LSMR at most.
        generator: source of randomness, on the CPU.
        rank: whether to estimate the free unknowns, which takes as long again.
    """
    random = torch.randn(start.numel(), generator=generator, dtype=torch.float64)
    sizes = [
        float(part(random.view(system.shape)).square().mean().sqrt())
        for part in (system.weight_equations, system.gradient_equations)
    ]
    operator, right = _operator(system, max(sizes[0], 1e-300), max(sizes[1], 1e-300))

    def least_squares(target: np.ndarray, begin: np.ndarray | None) -> Tensor:
        found = lsmr(
            operator,
            target,
            atol=TOLERANCE,
            btol=TOLERANCE,
            conlim=CONDITION,
            maxiter=iterations,
            x0=begin,
        )
        return torch.from_numpy(found[0])

    values = least_squares(right, start.numpy())
    length = float(np.linalg.norm(right))
    residual = float(np.linalg.norm(operator.matvec(values.numpy()) - right)) / max(length, 1e-300)
    if rank == "unknown":
        return Solution(values, residual, math.nan)
    again = least_squares(operator.matvec(random.numpy()), None)
    undetermined = float((again - random).square().sum() / random.square().sum()) * len(random)
    return Solution(values, residual, undetermined)


def _operator(system: System, weights: float, gradients: float) -> tuple[LinearOperator, np.ndarray]:
    """The matrix as an operator, each kind of equation divided by its size, and the right-hand side."""
    count = system.output.numel()
    unknowns = int(np.prod(system.shape))

    def tensor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64).reshape(-1))

    def forward(values: np.ndarray) -> np.ndarray:
        inputs = tensor(values).view(system.shape)
        parts = [
            system.weight_equations(inputs) / weights,
            system.gradient_equations(inputs) / gradients,
        ]
        return torch.cat(parts).detach().numpy()

    def transposed(values: np.ndarray) -> np.ndarray:
        rows = tensor(values)
        outputs = rows[:count].view_as(system.trust) * system.trust / weights
        kernel = (rows[count:] / gradients).view_as(system.weight)
        result = system.backward(outputs, system.weight) + system.backward(system.upper, kernel)
        return result.flatten().numpy()

    given = (system.output * system.trust).flatten()
    right = torch.cat([given / weights, system.gradient.flatten() / gradients])
    shape = (count + system.weight.numel(), unknowns)
    operator = LinearOperator(shape, matvec=forward, rmatvec=transposed, dtype=np.float64)
    return operator, right.numpy()
