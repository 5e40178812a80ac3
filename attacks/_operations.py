"""The operations that a model runs, whether by layers or by function calls."""

from collections.abc import Collection
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

KINKS = ("relu", "hardtanh", "hardswish", "hardsigmoid", "threshold", "clamp", "max_pool", "amax")
"""Parts of the names of operations whose second derivatives vanish or jump."""

MAX_POOLS = ("max_pool", "amax")
"""Parts of the names of operations whose gradient follows one of several values."""


def any_of(names: Collection[str], parts: tuple[str, ...]) -> bool:
    """Whether one of ``names`` contains one of ``parts``."""
    return any(part in name for name in names for part in parts)


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own hook
    """Remembers the names of the ATen operations that run, e.g. ``max_pool2d_with_indices``.

    `torch.nn.functional.max_pool2d` and `torch.nn.MaxPool2d` end in the same one.

    Attributes:
        seen: the names.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.seen.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))
