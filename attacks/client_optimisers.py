"""Steps of the client's optimiser as pure, differentiable functions: exactly those of `torch.optim`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from fl_audit.core.types import TrainingDetails

State = tuple[Tensor, ...]
"""The parameters, then each slot of the optimiser: momentum, moments. One flat tuple."""

_CLIP_EPS = 1e-6
"""What PyTorch adds to the norm."""


class ClientOptimiser(Protocol):
    """Moves parameters by gradients.

    Attributes:
        slots: tensors kept for each parameter.
        linear: whether the new state depends linearly on old state and gradient.
    """

    @property
    def slots(self) -> int:
        """See above."""

    @property
    def linear(self) -> bool:
        """See above."""

    def step(self, number: int, state: State, gradients: Sequence[Tensor]) -> State:
        """The state after step ``number``, counted from 0; ``gradients`` in the order of the parameters."""


@dataclass(frozen=True)
class SGD:
    """`torch.optim.SGD` with momentum, dampening, Nesterov and weight decay."""

    details: TrainingDetails

    linear = True

    @property
    def slots(self) -> int:
        """Its momentum buffer, if any."""
        return 1 if self.details.momentum else 0

    def step(self, number: int, state: State, gradients: Sequence[Tensor]) -> State:
        """See `ClientOptimiser`."""
        details, count = self.details, len(gradients)
        parameters, buffers = state[:count], state[count:]
        moves = _decayed(parameters, gradients, details.weight_decay)
        if details.momentum:
            share = 1.0 if number == 0 else 1 - details.dampening
            buffers = tuple(details.momentum * b + share * g for b, g in zip(buffers, moves, strict=True))
            moves = (
                tuple(g + details.momentum * b for b, g in zip(buffers, moves, strict=True))
                if details.nesterov
                else buffers
            )
        rate = rate_of(details, number)
        moved = tuple(p - rate * move for p, move in zip(parameters, moves, strict=True))
        return (*moved, *buffers)


@dataclass(frozen=True)
class Adam:
    """`torch.optim.Adam`, and `torch.optim.AdamW` where the details say ``"adamw"``; AMSGrad included.

    Kingma and Ba, "Adam", ICLR 2015, https://arxiv.org/abs/1412.6980, algorithm 1; Loshchilov and Hutter,
    "Decoupled Weight Decay Regularization", ICLR 2019, https://arxiv.org/abs/1711.05101, algorithm 2; Reddi
    et al., "On the Convergence of Adam and Beyond", ICLR 2018, https://arxiv.org/abs/1904.09237.
    """

    details: TrainingDetails

    linear = False

    @property
    def slots(self) -> int:
        """First and second moment, and the largest second moment for AMSGrad."""
        return 3 if self.details.amsgrad else 2

    def step(self, number: int, state: State, gradients: Sequence[Tensor]) -> State:
        """See `ClientOptimiser`."""
        details, count = self.details, len(gradients)
        (first, second), rate = details.betas, rate_of(details, number)
        parameters, means, squares = state[:count], state[count : 2 * count], state[2 * count : 3 * count]
        if details.optimizer == "adamw":
            parameters = tuple(p * (1 - rate * details.weight_decay) for p in parameters)
        else:
            gradients = _decayed(parameters, gradients, details.weight_decay)
        means = tuple(torch.lerp(m, g, 1 - first) for m, g in zip(means, gradients, strict=True))
        squares = tuple(
            second * v + (1 - second) * g.square() for v, g in zip(squares, gradients, strict=True)
        )
        largest = tuple(torch.maximum(a, b) for a, b in zip(state[3 * count :], squares, strict=False))
        divisors = largest or squares
        size, root = rate / (1 - first ** (number + 1)), (1 - second ** (number + 1)) ** 0.5
        moved = tuple(
            p - size * m / (_sqrt(v) / root + details.eps)
            for p, m, v in zip(parameters, means, divisors, strict=True)
        )
        return (*moved, *means, *squares, *largest)


@dataclass(frozen=True)
class Clipped:
    """Another optimiser that is given gradients as `torch.nn.utils.clip_grad_norm_` clips them."""

    inner: ClientOptimiser
    norm: float

    linear = False

    @property
    def slots(self) -> int:
        """Those of the other."""
        return self.inner.slots

    def step(self, number: int, state: State, gradients: Sequence[Tensor]) -> State:
        """See `ClientOptimiser`."""
        total = _sqrt(torch.stack([g.square().sum() for g in gradients]).sum())
        factor = (self.norm / (total + _CLIP_EPS)).clamp(max=1.0)
        return self.inner.step(number, state, tuple(factor * g for g in gradients))


OPTIMISERS: Mapping[str, type[SGD] | type[Adam]] = {"sgd": SGD, "adam": Adam, "adamw": Adam}
"""By `TrainingDetails.optimizer`."""


def optimiser_of(details: TrainingDetails) -> ClientOptimiser:
    """The optimiser of a client that trains so."""
    optimiser: ClientOptimiser = OPTIMISERS[details.optimizer](details)
    return optimiser if details.clip_norm is None else Clipped(optimiser, details.clip_norm)


def rate_of(details: TrainingDetails, number: int) -> float:
    """Learning rate of step ``number``; the last known one for steps that are beyond what was recorded."""
    rates = details.learning_rates or (details.learning_rate,)
    return rates[min(number, len(rates) - 1)]


def total_rate(details: TrainingDetails, steps: int) -> float:
    """How far SGD moves in all for a gradient that is 1 in each of ``steps`` steps; weight decay aside."""
    optimiser = SGD(replace(details, weight_decay=0.0))
    zero = torch.zeros((), dtype=torch.float64)
    state: State = (zero,) * (1 + optimiser.slots)
    for number in range(steps):
        state = optimiser.step(number, state, (zero + 1,))
    return -float(state[0])


def _decayed(
    parameters: Sequence[Tensor], gradients: Sequence[Tensor], weight_decay: float
) -> tuple[Tensor, ...]:
    if not weight_decay:
        return tuple(gradients)
    return tuple(g + weight_decay * p for p, g in zip(parameters, gradients, strict=True))


def _sqrt(values: Tensor) -> Tensor:
    """Square root with slope 0 at 0: where a gradient is exactly 0, e.g. of a dead unit, it stays so."""
    positive = values > 0
    return torch.where(positive, values, 1.0).sqrt() * positive
