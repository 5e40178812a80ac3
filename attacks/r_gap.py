"""One image from its gradient in closed form, layer by layer from the last to the first."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fl_audit.attacks._r_gap_chain import Chain, Link, find_chain
from fl_audit.attacks._r_gap_last import last_input
from fl_audit.attacks._r_gap_system import System, solve
from fl_audit.attacks._registry import attacks
from fl_audit.attacks.base import Attack
from fl_audit.attacks.problem import AttackFailed, Problem
from fl_audit.core.types import Reconstruction

NOTICEABLE = 0.5
"""Unknowns left free that are worth a sentence; below, it is the estimate's rounding."""


@dataclass(frozen=True)
class _Inverted:
    """The input of one layer, flat float64 on the CPU.

    Attributes:
        values: ``(D,)``.
        upper: gradient of the loss at that input, ``(D,)``.
        residual: share of the layer's equations that stays unexplained.
        undetermined: how many of the D values the equations leave free.
    """

    values: Tensor
    upper: Tensor
    residual: float
    undetermined: float


@attacks.register("r-gap")
class RGap(Attack):
    """One image in closed form: solves linear equations layer by layer, from the last to the first.

    Zhu and Blaschko, "R-GAP: Recursive Gradient Attack on Privacy", ICLR 2021,
    https://arxiv.org/abs/2010.07733, algorithm 1: the last layer's gradient gives the gradient of the loss at
    the logits; then, per layer, its output is the input of the layer above with the activation undone, and
    its input is the least-squares solution of weight constraints (it must give that output) and gradient
    constraints (it must give the weight's gradient). The rank of these equations decides what can be
    recovered, whatever the attack; a note names the layer that falls short most.

    Differs in: softmax cross-entropy instead of one logistic output; biases are used where there are any:
    the input of a linear layer with bias is exact; the equations are solved by LSMR without writing their
    matrix down, so that their rank deficiency is an estimate; values that they leave free are those of a
    typical input instead of 0, mid-grey for the image; ReLU without its inequality constraints; a scale of
    the gradient, as of clipping, is fitted.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model", "loss", "image_shape"})
    uses: ClassVar[frozenset[str]] = frozenset({"training", "labels"})
    max_images: ClassVar[int | None] = 1
    paper: ClassVar[str] = (
        "Zhu and Blaschko, R-GAP: Recursive Gradient Attack on Privacy, ICLR 2021, "
        "https://arxiv.org/abs/2010.07733"
    )
    works: ClassVar[str] = (
        "one image and one local SGD step; chains of convolutions and linear layers with leaky ReLU, "
        "sigmoid, tanh or the like between them, without pooling, batch norm or residual connections"
    )

    iterations: int = Field(
        2000, ge=1, le=1_000_000, description="iterations of the least-squares solver for each layer, at most"
    )

    rank: Literal["estimated", "unknown"] = Field(
        "estimated",
        description="whether to estimate how many inputs each layer leaves free, which takes as long again",
    )

    def _reconstruct(self, problem: Problem) -> Reconstruction:
        _check_gradient(problem)
        chain = find_chain(problem)
        top = last_input(problem, chain.links[-1])
        found = _Inverted(top.values, top.upper, top.residual, 0.0)
        least: tuple[float, str] | None = None
        below = list(chain.links[:-1])
        for done, link in enumerate(reversed(below)):
            if problem.clock.over():
                raise AttackFailed(f"the time budget ended before layer {link.name!r} was inverted")
            found = self._below(problem, chain, link, found, top.scale)
            if not bool(torch.isfinite(found.values).all()):
                raise AttackFailed(f"the equations of layer {link.name!r} have no finite solution")
            problem.progress.step(done + 1, len(below), found.residual)
            if found.undetermined > NOTICEABLE:
                share = found.undetermined / len(found.values)
                said = (
                    f"the equations of layer {link.name!r} leave about {found.undetermined:.0f} of "
                    f"{len(found.values)} inputs free (rank deficiency): those are typical values"
                )
                least = max(least or (share, said), (share, said))
        if self.rank == "estimated":
            problem.notes.append(least[1] if least else "the equations of every layer determine its input")
        images = (found.values - chain.offset) / chain.scale
        return Reconstruction(
            "done",
            images=images.float().view(1, *problem.image_shape),
            labels=torch.tensor([top.label]),
            labels_inferred=problem.labels is None,
            objective=found.residual,
        )

    def _below(self, problem: Problem, chain: Chain, link: Link, above: _Inverted, scale: float) -> _Inverted:
        """The input of ``link`` from that of the layer above it."""
        if link.activation is None:
            raise TypeError(f"layer {link.name!r} is the last one")
        outputs = link.activation.undo(above.values)
        slopes = link.activation.slope(outputs)
        upper = above.upper * slopes
        weight = link.module.weight.detach().to("cpu", torch.float64)
        gradient = problem.observed[f"{link.name}.weight".lstrip(".")].to("cpu", torch.float64) / scale
        if isinstance(link.module, nn.Linear):
            shown = problem.observed.get(f"{link.name}.bias".lstrip("."))
            if shown is not None:
                upper = shown.to("cpu", torch.float64) / scale
            if not bool(upper.any()):
                raise AttackFailed(f"no gradient reaches layer {link.name!r}: all its units are switched off")
            values = upper @ gradient / upper.square().sum()
            residual = float((gradient - torch.outer(upper, values)).norm() / gradient.norm())
            return _Inverted(values, weight.T @ upper, residual, 0.0)
        form = link.module(torch.zeros(1, *link.shape, device=problem.device)).shape[1:]
        bias = torch.zeros(len(weight), dtype=torch.float64)
        if link.module.bias is not None:
            bias = link.module.bias.detach().to("cpu", torch.float64)
        system = System(
            module=link.module,
            shape=link.shape,
            weight=weight,
            output=outputs.view(form) - bias.view(-1, *[1] * (len(form) - 1)),
            # An error in the output above is one of that over the slope here, endless where a unit is off.
            trust=slopes.view(form),
            upper=upper.view(form),
            gradient=gradient,
        )
        first = link is chain.links[0]
        start = 0.5 * chain.scale + chain.offset if first else link.typical
        solution = solve(
            system, start, iterations=self.iterations, generator=problem.generator, rank=self.rank
        )
        below = system.backward(system.upper, weight).flatten()
        return _Inverted(solution.values, below, solution.residual, solution.undetermined)


def _check_gradient(problem: Problem) -> None:
    """Raise `AttackFailed` where the update is not one gradient."""
    steps = len(problem.step_sizes)
    if steps > 1:
        raise AttackFailed(f"r-gap inverts the gradient of one step; the client made {steps} local steps")
    if not problem.is_gradient:
        kind = problem.training.optimizer if problem.training is not None else "unknown"
        raise AttackFailed(f"r-gap inverts a gradient, and a step of {kind!r} is none")
    if problem.training is None and not problem.exact_scale:
        problem.notes.append("the update is treated as one step's gradient")
