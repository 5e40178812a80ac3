"""A model as a chain of linear layers with invertible activations between them, found by running it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from fl_audit.attacks.analytic import per_pixel
from fl_audit.attacks.problem import AttackFailed, Problem

PROBES = 8
"""Random images that tell what happens between two layers."""

EDGE = 1e-7
"""Distance that a saturated activation is kept from the end of its range."""

DARK = 1e-4
"""Output of a ReLU, as a share of the largest, below which it is off."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


@dataclass(frozen=True)
class Activation:
    """An elementwise, increasing function.

    Attributes:
        forward: the function.
        inverse: its inverse; outputs that the function never takes are moved to the nearest that it takes.
        lossy: whether outputs of 0 have no inverse (ReLU).
    """

    forward: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]
    lossy: bool = False

    def undo(self, outputs: Tensor) -> Tensor:
        """Inputs for ``outputs``; -1, where the slope is 0, for those that are lost."""
        if not self.lossy:
            return self.inverse(outputs)
        return torch.where(outputs > DARK * outputs.abs().max(), outputs, -1.0)

    def slope(self, inputs: Tensor) -> Tensor:
        """Derivative at each input."""
        leaf = inputs.detach().clone().requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(self.forward(leaf).sum(), leaf)
        return slope


@dataclass(frozen=True)
class Link:
    """A layer of the chain.

    Attributes:
        name: of the module.
        module: the layer; its weights are those that the server sent.
        shape: of its input without the batch axis.
        typical: mean of its input over random images, float64, flat, on the CPU.
        activation: what follows it; None for the last layer.
    """

    name: str
    module: Layer
    shape: tuple[int, ...]
    typical: Tensor
    activation: Activation | None


@dataclass(frozen=True)
class Chain:
    """A whole model, first layer first.

    Attributes:
        links: the layers.
        scale: input of the first layer per pixel value, ``(D,)`` float64 on the CPU.
        offset: input of the first layer for a black image, ``(D,)``.
    """

    links: tuple[Link, ...]
    scale: Tensor
    offset: Tensor


@dataclass(frozen=True)
class _Call:
    """A module without children as it ran on the probes."""

    name: str
    module: nn.Module
    seen: Tensor
    given: Tensor


def find_chain(problem: Problem) -> Chain:
    """Run the model on random images and check that it is such a chain.

    Raises:
        AttackFailed: it is not; the message names the layer that stands in the way.
    """
    shape = problem.image_shape
    random = torch.rand(PROBES, *shape, generator=problem.generator)
    probes = torch.cat([torch.zeros(1, *shape), torch.ones(1, *shape), random]).to(problem.device)
    calls, logits = _run(problem.model, probes)
    places = [place for place, call in enumerate(calls) if isinstance(call.module, Layer)]
    if not places:
        raise AttackFailed("the model has no linear or convolutional layer that r-gap could invert")
    _check(problem, calls, [calls[place] for place in places], logits)
    first = calls[places[0]]
    pixels = per_pixel(probes, first.seen)
    if pixels is None:
        between = _names(calls[: places[0]])
        raise AttackFailed(
            f"what comes before the first layer {first.name!r} is no per-pixel normalisation{between}"
        )
    links = []
    for here, following in pairwise(places):
        activation = _activation(calls[here], calls[following], calls[here + 1 : following])
        links.append(_link(calls[here], activation))
    links.append(_link(calls[places[-1]], None))
    scale, offset = (value.cpu() for value in pixels)
    return Chain(tuple(links), scale, offset)


def _run(model: nn.Module, probes: Tensor) -> tuple[list[_Call], Tensor]:
    """All calls of modules without children in order, and the logits."""
    calls: list[_Call] = []
    inputs: dict[str, Tensor] = {}

    def before(name: str, arguments: tuple[object, ...]) -> None:
        if arguments and isinstance(arguments[0], Tensor):
            inputs[name] = arguments[0].detach().clone()  # the module may work in place

    def after(name: str, module: nn.Module, output: object) -> None:
        if name in inputs and isinstance(output, Tensor):
            calls.append(_Call(name, module, inputs[name], output.detach().clone()))

    handles = []
    for name, module in model.named_modules():
        if not any(True for _ in module.children()):
            handles += [
                module.register_forward_pre_hook(lambda _, arguments, name=name: before(name, arguments)),
                module.register_forward_hook(
                    lambda module, _, output, name=name: after(name, module, output)
                ),
            ]
    try:
        with torch.no_grad():
            logits = model(probes)
    finally:
        for handle in handles:
            handle.remove()
    return calls, logits


def _check(problem: Problem, calls: list[_Call], layers: list[_Call], logits: Tensor) -> None:
    """Raise `AttackFailed` where layers repeat, others have weights, or the last is not the model's end."""
    names = [call.name for call in calls if any(True for _ in call.module.parameters())]
    for name in names:
        if names.count(name) > 1:
            raise AttackFailed(f"layer {name!r} runs more than once: its gradient mixes its inputs")
    known = {f"{call.name}.{kind}".lstrip(".") for call in layers for kind in ("weight", "bias")}
    for name in problem.parameters:
        if name not in known:
            raise AttackFailed(
                f"{name!r} belongs to no linear or convolutional layer of a plain chain: r-gap cannot invert "
                "what it is part of, e.g. batch normalisation"
            )
    last = layers[-1]
    if not isinstance(last.module, nn.Linear) or last.given.shape != logits.shape:
        raise AttackFailed(f"the model does not end in a linear layer: its last one is {last.name!r}")
    if not torch.equal(last.given, logits):
        raise AttackFailed(f"the model does something to the output of its last layer {last.name!r}")
    for call in layers:
        weight = f"{call.name}.weight".lstrip(".")
        if weight not in problem.observed:
            raise AttackFailed(f"layer {call.name!r} was not trained: its weight did not move")
        if isinstance(call.module, nn.Linear) and call.seen.ndim != 2:
            raise AttackFailed(f"layer {call.name!r} runs on several places of an image at once")


def _link(call: _Call, activation: Activation | None) -> Link:
    if not isinstance(call.module, Layer):
        raise TypeError(f"{call.name!r} is no layer of a chain")
    typical = call.seen[2:].flatten(1).double().mean(0).cpu()
    return Link(call.name, call.module, tuple(call.seen.shape[1:]), typical, activation)


def _activation(here: _Call, following: _Call, between: Sequence[_Call]) -> Activation:
    """What turns the output of one layer into the input of the next."""
    outputs, inputs = here.given.flatten(1), following.seen.flatten(1)
    candidates = [known_activation(call.module) for call in between]
    candidates += [known_activation(module) for module in _FUNCTIONS]
    if outputs.shape == inputs.shape:
        close = 1e-5 * float(inputs.abs().max()) + 1e-12
        for candidate in candidates:
            if candidate is not None and torch.allclose(
                candidate.forward(outputs), inputs, rtol=1e-4, atol=close
            ):
                return candidate
    raise AttackFailed(
        f"what happens between layers {here.name!r} and {following.name!r} is no activation that can be "
        f"inverted{_names(between)}; r-gap takes no pooling, normalisation or residual connection"
    )


def _names(calls: Sequence[_Call]) -> str:
    strange = [
        f"{call.name!r} ({type(call.module).__name__})"
        for call in calls
        if known_activation(call.module) is None
        and not isinstance(call.module, nn.Flatten | nn.Unflatten | nn.Identity)
    ]
    return f": {', '.join(strange)}" if strange else ""


def known_activation(module: nn.Module) -> Activation | None:
    """The activation that a module computes, or None if it is none that can be inverted."""
    if isinstance(module, nn.Identity | nn.Dropout):
        return Activation(lambda z: z, lambda a: a)
    if isinstance(module, nn.ReLU) or (isinstance(module, nn.LeakyReLU) and module.negative_slope == 0):
        return Activation(torch.relu, lambda a: a, lossy=True)
    if isinstance(module, nn.LeakyReLU) and module.negative_slope > 0:
        slope = float(module.negative_slope)
        return Activation(
            lambda z: torch.where(z > 0, z, slope * z), lambda a: torch.where(a > 0, a, a / slope)
        )
    if isinstance(module, nn.Sigmoid):
        return Activation(torch.sigmoid, lambda a: torch.logit(a.clamp(EDGE, 1 - EDGE)))
    if isinstance(module, nn.Tanh):
        return Activation(torch.tanh, lambda a: torch.atanh(a.clamp(EDGE - 1, 1 - EDGE)))
    if isinstance(module, nn.ELU) and module.alpha > 0:
        alpha = float(module.alpha)
        return Activation(
            lambda z: torch.where(z > 0, z, alpha * torch.expm1(z.clamp(max=0))),
            lambda a: torch.where(a > 0, a, torch.log1p(a.clamp(alpha * (EDGE - 1), 0) / alpha)),
        )
    if isinstance(module, nn.Softplus):
        beta = float(module.beta)
        return Activation(
            lambda z: nn.functional.softplus(z, beta),
            lambda a: a + torch.log(-torch.expm1(-beta * a.clamp(min=EDGE))) / beta,
        )
    return None


_FUNCTIONS = (nn.Identity(), nn.ReLU(), nn.Sigmoid(), nn.Tanh(), nn.LeakyReLU(), nn.ELU(), nn.Softplus())
"""What a model may call as a function, with PyTorch's default parameters."""
