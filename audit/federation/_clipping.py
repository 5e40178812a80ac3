"""Gradients that a client clips before a step, as PyTorch's own function does it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.nn import utils
from torch.nn.utils import clip_grad

Told = Callable[[list[Tensor], float], None]
"""Told which gradients are clipped together, and at which Euclidean norm."""


@contextmanager
def clipping_told(tell: Told) -> Iterator[None]:
    """Inside the block, whoever calls, or imports, ``clip_grad_norm_`` gets one that tells and then clips.

    Other norms than the Euclidean one are not told: nothing here simulates them.
    """
    original = clip_grad.clip_grad_norm_

    def clip_grad_norm_(
        parameters: Tensor | Iterable[Tensor],
        max_norm: float,
        norm_type: float = 2.0,
        *rest: Any,
        **more: Any,
    ) -> Tensor:
        together = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        if float(norm_type) == 2.0:
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
