"""Where the optimisation starts."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Start(Protocol):
    """Draws the images that a restart begins from."""

    def __call__(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Images ``shape = (N, C, H, W)`` on the CPU in [0, 1], drawn from ``generator`` only."""


@dataclass(frozen=True)
class NormalNoise:
    """Independent normal pixels around ``mean`` with standard deviation ``std``, clamped to [0, 1]."""

    mean: float = 0.5
    std: float = 0.25

    def __call__(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """See `Start`."""
        return (torch.randn(shape, generator=generator) * self.std + self.mean).clamp(0, 1)


class UniformNoise:
    """Independent uniform pixels in [0, 1]."""

    def __call__(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """See `Start`."""
        return torch.rand(shape, generator=generator)
