"""Where the optimisation starts."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fl_audit.attacks.labels import Labels
from fl_audit.attacks.problem import Problem


class Start(Protocol):
    """Gives the images that a restart begins from."""

    def __call__(self, problem: Problem, labels: Labels) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1], random only through ``problem.generator``.

        Args:
            problem: the prepared problem; its `Problem.shape` is the shape of the images.
            labels: what is known of the labels, and of the last layer's inputs.
        """


@dataclass(frozen=True)
class NormalNoise:
    """Independent normal pixels around ``mean`` with standard deviation ``std``, clamped to [0, 1]."""

    mean: float = 0.5
    std: float = 0.25

    def __call__(self, problem: Problem, labels: Labels) -> Tensor:
        """See `Start`."""
        del labels
        noise = torch.randn(problem.shape, generator=problem.generator)
        return (noise * self.std + self.mean).clamp(0, 1)


class UniformNoise:
    """Independent uniform pixels in [0, 1]."""

    def __call__(self, problem: Problem, labels: Labels) -> Tensor:
        """See `Start`."""
        del labels
        return torch.rand(problem.shape, generator=problem.generator)
