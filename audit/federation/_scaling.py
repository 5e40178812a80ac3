"""Steps that mixed precision leaves out: what was to be trained on leaves no trace in the update."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.amp import GradScaler
from torch.optim.optimizer import register_optimizer_step_pre_hook


@contextmanager
def skipped_told(tell: Callable[[], None]) -> Iterator[None]:
    """Inside the block, a `GradScaler` that found inf or NaN tells that it called no optimiser.

    Fused optimisers are called all the same, and leave the step out themselves: that is not seen.
    """
    original = GradScaler.step

    @functools.wraps(original)
    def step(self: GradScaler, optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> float | None:
        called: list[bool] = []
        handle = register_optimizer_step_pre_hook(lambda *_: called.append(True))
        try:
            result = original(self, optimizer, *args, **kwargs)
        finally:
            handle.remove()
        if not called:
            tell()
        return result

    GradScaler.step = step  # type: ignore[method-assign]  # of the class: apps make their own
    try:
        yield
    finally:
        GradScaler.step = original  # type: ignore[method-assign]  # as it was
