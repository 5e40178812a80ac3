"""Unrolling a client's local steps, differentiably, in memory that hardly grows with their number.

Plain unrolling keeps every step's graph until the backward pass. Here the forward pass keeps some of the
states and no graph, and the backward pass goes through the steps in reverse, each from its state: at most
`WIDTH` states are kept for a segment, and a segment of more steps is cut into as many shorter ones, so that S
steps take ``WIDTH * log(S) / log(WIDTH)`` states and the graph of one step. Griewank, "Achieving logarithmic
growth of temporal and spatial complexity in reverse automatic differentiation", 1992, with equal segments in
place of the binomial ones.

The derivative of a step needs none of its gradient's graph either: with w the cotangent of the gradient
``dL/dp``, the sum ``<dL/dp, w>`` is the directional derivative of the loss along w, which forward mode gives
in one pass; its gradient is what the backward pass wants (Pearlmutter, "Fast exact multiplication by the
Hessian", 1994). A linear optimiser's gradient is then not computed a second time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.func import grad, jvp, vjp

from fl_audit.attacks.client_optimisers import ClientOptimiser, State, optimiser_of
from fl_audit.core.types import TrainingDetails

WIDTH = 8
"""States kept for a segment of steps."""

Named = dict[str, Tensor]


@dataclass(frozen=True)
class Unrolling:
    """A local training to unroll.

    Attributes:
        start: the trained parameters as sent.
        loss: of a batch, from parameters, images and labels.
        details: the client's optimiser.
        sizes: images in each step.
        proximal: weight of the squared distance to ``start`` in the loss.
        checkpointed: whether to trade memory as described above; else every step's graph is kept.
        forward_mode: whether the model can be differentiated in forward mode.
        functional: whether to differentiate under `torch.func`, as `torch.func.vmap` demands, or by tape,
            which takes any model.
    """

    start: Named
    loss: Callable[[Named, Tensor, Tensor], Tensor]
    details: TrainingDetails
    sizes: tuple[int, ...]
    proximal: float = 0.0
    checkpointed: bool = False
    forward_mode: bool = True
    functional: bool = False

    @cached_property
    def optimiser(self) -> ClientOptimiser:
        """The client's optimiser."""
        return optimiser_of(self.details)

    @cached_property
    def initial(self) -> State:
        """The state that training starts from: slots are zero."""
        values = tuple(self.start.values())
        return (*values, *(torch.zeros_like(v) for _ in range(self.optimiser.slots) for v in values))

    def named(self, values: Sequence[Tensor]) -> Named:
        """Parameters by name."""
        return dict(zip(self.start, values, strict=True))

    def move(self, number: int, state: State, gradients: Sequence[Tensor]) -> State:
        """What one step makes of the state, given the gradient of the loss."""
        if self.proximal:
            pairs = zip(gradients, state, self.start.values(), strict=False)
            gradients = [g + self.proximal * (p - origin) for g, p, origin in pairs]
        return self.optimiser.step(number, state, gradients)

    def gradient(self, values: State, images: Tensor, labels: Tensor, *, graph: bool) -> State:
        """Gradient of the loss at parameters ``values``; with ``graph``, differentiable."""
        if self.functional:
            found = grad(lambda named: self.loss(named, images, labels))(self.named(values))
            return tuple(found.values())
        with torch.enable_grad():
            if not graph:
                values = tuple(value.detach().requires_grad_() for value in values)
            loss = self.loss(self.named(values), images, labels)
            return torch.autograd.grad(
                loss, values, create_graph=graph, allow_unused=True, materialize_grads=True
            )


def unroll(plan: Unrolling, images: Tensor, labels: Tensor) -> Named:
    """``start - end`` by parameter name, for images ``(U, C, H, W)`` and labels ``(U,)`` in order of use."""
    if plan.checkpointed:
        ends = _Checkpointed.apply(plan, images, labels)[: len(plan.start)]
    else:
        ends = _plain(plan, images, labels)
    return {name: value - end for (name, value), end in zip(plan.start.items(), ends, strict=True)}


def gradient_slopes(
    plan: Unrolling, values: State, part: tuple[Tensor, Tensor], along: State
) -> tuple[Tensor, State]:
    """Slopes of ``<gradient of the loss, along>`` in the images and in the parameters."""
    images, labels = part

    def directional(images: Tensor, *values: Tensor) -> Tensor:
        def loss(named: Named) -> Tensor:
            return plan.loss(named, images, labels)

        slope: Tensor = jvp(loss, (plan.named(values),), (plan.named(along),))[1]
        return slope

    def gradient(images: Tensor, *values: Tensor) -> State:
        return plan.gradient(values, images, labels, graph=True)

    if plan.forward_mode:
        ones = (torch.ones((), dtype=images.dtype, device=images.device),)
        image_slope, *slopes = _vjp(plan, lambda *at: (directional(*at),), (images, *values), ones)
    else:
        image_slope, *slopes = _vjp(plan, gradient, (images, *values), along)
    return image_slope, tuple(slopes)


def _plain(plan: Unrolling, images: Tensor, labels: Tensor) -> State:
    state, count = plan.initial, len(plan.start)
    if not plan.functional:
        state = tuple(value.detach().requires_grad_() for value in state)
    for number, (part, marks) in enumerate(_parts(plan, images, labels)):
        state = plan.move(number, state, plan.gradient(state[:count], part, marks, graph=True))
    return state[:count]


def _parts(plan: Unrolling, images: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    sizes = list(plan.sizes)
    return list(zip(torch.split(images, sizes), torch.split(labels, sizes), strict=True))


class _Checkpointed(torch.autograd.Function):
    """From images and labels to the parameters at the end, and states on the way for the backward pass."""

    generate_vmap_rule = True

    @staticmethod
    def forward(plan: Unrolling, images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        parts = _parts(plan, images, labels)
        kept = _states(plan, parts, plan.initial, [*_cuts(0, len(parts)), len(parts)])
        end = kept.pop()
        return (*end[: len(plan.start)], *(value for state in kept[1:] for value in state))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.plan, images, labels = inputs
        between = output[len(ctx.plan.start) :]
        ctx.mark_non_differentiable(*between)
        ctx.save_for_backward(images, labels, *between)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[None, Tensor, None]:
        plan = ctx.plan
        images, labels, *between = ctx.saved_tensors
        parts = _parts(plan, images, labels)
        width = len(plan.initial)
        kept = [plan.initial, *(tuple(between[i : i + width]) for i in range(0, len(between), width))]
        ends = cotangents[: len(plan.start)]
        pulled = (*ends, *(torch.zeros_like(ends[i % len(ends)]) for i in range(width - len(ends))))
        slopes: list[Tensor] = []
        _reverse(plan, parts, kept, [*_cuts(0, len(parts)), len(parts)], pulled, slopes)
        return None, torch.cat(slopes[::-1]), None


def _cuts(first: int, last: int) -> range:
    """Where the segments of steps ``first`` to ``last`` begin: at most `WIDTH`."""
    return range(first, last, -(-(last - first) // WIDTH))


def _states(
    plan: Unrolling, parts: Sequence[tuple[Tensor, Tensor]], state: State, wanted: Sequence[int]
) -> list[State]:
    """The states before each of the ``wanted`` steps, of which ``state`` is the first."""
    found = []
    for number in range(wanted[0], wanted[-1] + 1):
        if number in wanted:
            found.append(state)
        if number < wanted[-1]:
            gradients = plan.gradient(state[: len(plan.start)], *parts[number], graph=False)
            state = plan.move(number, state, gradients)
    return found


def _reverse(
    plan: Unrolling,
    parts: Sequence[tuple[Tensor, Tensor]],
    kept: list[State],
    cuts: Sequence[int],
    pulled: State,
    slopes: list[Tensor],
) -> State:
    """Pull ``pulled``, the slope of the state at ``cuts[-1]``, back to ``cuts[0]``.

    ``kept`` are the states before the segments; slopes of the images are appended, the last step's first.
    """
    for place in reversed(range(len(cuts) - 1)):
        first, last = cuts[place], cuts[place + 1]
        state = kept.pop()
        if last - first == 1:
            pulled, slope = _pull(plan, first, state, parts[first], pulled)
            slopes.append(slope)
        else:
            inner = [*_cuts(first, last), last]
            states = _states(plan, parts, state, inner[:-1])
            pulled = _reverse(plan, parts, states, inner, pulled, slopes)
    return pulled


def _pull(
    plan: Unrolling, number: int, state: State, part: tuple[Tensor, Tensor], pulled: State
) -> tuple[State, Tensor]:
    """From the slope of the state after step ``number`` to that of the state before, and of the images."""
    count = len(plan.start)
    values = state[:count]
    linear = plan.optimiser.linear
    gradients = values if linear else plan.gradient(values, *part, graph=False)  # linear: any will do

    def moved(*both: Tensor) -> State:
        return plan.move(number, both[:-count], both[-count:])

    back = _vjp(plan, moved, (*state, *gradients), pulled)
    slopes, along = back[:-count], back[-count:]
    image_slope, more = gradient_slopes(plan, values, part, along)
    return (*(a + b for a, b in zip(slopes, more, strict=False)), *slopes[count:]), image_slope


def _vjp(
    plan: Unrolling, function: Callable[..., State], inputs: Sequence[Tensor], cotangents: Sequence[Tensor]
) -> State:
    """Slopes of ``<function(*inputs), cotangents>`` in ``inputs``."""
    if plan.functional:
        slopes: State = vjp(function, *inputs)[1](tuple(cotangents))
        return slopes
    with torch.enable_grad():
        leaves = [value.detach().requires_grad_() for value in inputs]
        outputs = function(*leaves)
        pairs = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if o.requires_grad]
        if not pairs:
            return tuple(torch.zeros_like(leaf) for leaf in leaves)
        return torch.autograd.grad(
            [o for o, _ in pairs], leaves, [c for _, c in pairs], allow_unused=True, materialize_grads=True
        )
