"""Gradients that a client clips before a step, as PyTorch's own function does it."""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import utils
from torch.nn.utils import clip_grad

Told = Callable[[list[Tensor], float], None]
"""Told which gradients are clipped together, and at which Euclidean norm."""


class Clips:
    """What was clipped since the last step of an optimiser."""

    def __init__(self) -> None:
        self._seen: list[tuple[frozenset[int], int, float]] = []

    def note(self, parameters: Sequence[Tensor], norm: float, calls: int) -> None:
        """The gradients of ``parameters``, that of ``calls`` calls of the model so far, are clipped."""
        self._seen.append((_with_gradient(parameters), calls, norm))

    def norm(self, optimizer: torch.optim.Optimizer, calls: int) -> float | None:
        """At which norm the whole gradient of a step, that of ``calls`` calls, was clipped.

        None where it was not, and where it was in another way, which nothing here simulates: some
        parameters alone, or before all of the gradient was there.
        """
        own = _with_gradient([p for group in optimizer.param_groups for p in group["params"]])
        norms = [norm for whose, before, norm in self._seen if (whose, before) == (own, calls)]
        return min(norms) if norms and len(norms) == len(self._seen) else None

    def clear(self) -> None:
        """The step is over."""
        self._seen.clear()


@contextmanager
def clipping_told(tell: Told) -> Iterator[None]:
    """Inside the block, whoever calls, or imports, ``clip_grad_norm_`` gets one that tells and then clips.

    Other norms than the Euclidean one are not told, nor an infinite limit, by which some read the norm.
    """
    original = clip_grad.clip_grad_norm_

    @functools.wraps(original)
    def clip_grad_norm_(
        parameters: Tensor | Iterable[Tensor],
        max_norm: float,
        norm_type: float = 2.0,
        *rest: Any,
        **more: Any,
    ) -> Tensor:
        together = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        if not torch.compiler.is_compiling() and float(norm_type) == 2.0 and 0 < max_norm < math.inf:
            tell(together, float(max_norm))
        return original(together, max_norm, norm_type, *rest, **more)

    _put(clip_grad_norm_)
    try:
        yield
    finally:
        _put(original)


def _put(function: Callable[..., Tensor]) -> None:
    for module in (utils, clip_grad):
        module.clip_grad_norm_ = function  # type: ignore[attr-defined]  # torch exports it


def _with_gradient(parameters: Sequence[Tensor]) -> frozenset[int]:
    return frozenset(id(parameter) for parameter in parameters if parameter.grad is not None)
