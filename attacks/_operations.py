"""The operations that a model runs, whether by layers or by function calls."""

from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

KINKS = ("relu", "hardtanh", "hardswish", "hardsigmoid", "threshold", "clamp", "max_pool", "amax")
"""Parts of the names of operations whose second derivatives vanish or jump."""

MAX_POOLS = ("max_pool", "amax")
"""Parts of the names of operations whose gradient follows one of several values."""


def operations(model: nn.Module, shape: tuple[int, ...]) -> frozenset[str]:
    """Names of the ATen operations of a forward pass, e.g. ``max_pool2d_with_indices``.

    `torch.nn.functional.max_pool2d` and `torch.nn.MaxPool2d` end in the same one.

    Args:
        model: in the mode in which the client ran it, without running statistics to change.
        shape: ``(N, C, H, W)`` of its input.
    """
    device = next(iter(model.parameters())).device
    images, names = torch.full(shape, 0.5, device=device), _Names()
    with torch.no_grad(), names:
        model(images)
    return frozenset(names.seen)


def any_of(names: frozenset[str], parts: tuple[str, ...]) -> bool:
    """Whether one of ``names`` contains one of ``parts``."""
    return any(part in name for name in names for part in parts)


class _Names(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own hook
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.seen.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))
