"""What moves the images: optimisers as parts that build a `torch.optim.Optimizer`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor


class Optimiser(Protocol):
    """Builds an optimiser for the images.

    Attributes:
        batched: whether restarts on one axis move independently; else they run one after the other.
        rate: its step size, which a schedule scales.
    """

    @property
    def batched(self) -> bool:
        """See above."""

    @property
    def rate(self) -> float:
        """See above."""

    def build(self, images: Tensor) -> torch.optim.Optimizer:
        """An optimiser with one parameter group holding ``images``; its step takes a closure."""


@dataclass(frozen=True)
class SignedAdam:
    """Adam fed with the sign of the gradient (Geiping et al. 2020, section 4 and their code).

    Attributes:
        rate: step size: what a pixel moves by in an iteration as long as its slope keeps its sign.
        momentum: share of the earlier signs in the mean that is followed.
    """

    rate: float
    momentum: float = 0.9
    batched: ClassVar[bool] = True

    def build(self, images: Tensor) -> torch.optim.Optimizer:
        """See `Optimiser`."""
        return _SignedAdam([images], lr=self.rate, betas=(self.momentum, 0.999))


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba, ICLR 2015): small slopes move little, unlike with `SignedAdam`."""

    rate: float
    batched: ClassVar[bool] = True

    def build(self, images: Tensor) -> torch.optim.Optimizer:
        """See `Optimiser`."""
        return torch.optim.Adam([images], lr=self.rate)


@dataclass(frozen=True)
class LBFGS:
    """Limited-memory BFGS; one step takes up to ``evaluations`` evaluations of the objective."""

    rate: float = 1.0
    evaluations: int = 20
    history: int = 100
    line_search: bool = False
    batched: ClassVar[bool] = False

    def build(self, images: Tensor) -> torch.optim.Optimizer:
        """See `Optimiser`."""
        return torch.optim.LBFGS(
            [images],
            lr=self.rate,
            max_iter=self.evaluations,
            history_size=self.history,
            tolerance_grad=0.0,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe" if self.line_search else None,
        )


class _SignedAdam(torch.optim.Adam):
    """`torch.optim.Adam` that replaces each gradient by its sign."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; torch declares two overloads of which this is the union."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.sign_()
        super().step()
        return loss
