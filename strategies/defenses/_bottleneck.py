"""The variational bottleneck of PRECODE."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus


class VariationalBottleneck(nn.Module):
    """Encodes features as a Gaussian, draws from it, and decodes the draw.

    The draw needs a `generator`, which only a client has, in training: for everybody else, an attacker
    included, and in evaluation the code is the mean.

    Args:
        features: length of what enters and leaves.
        size: length of the code.
    """

    def __init__(self, features: int, *, size: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(features, 2 * size)
        self.decoder = nn.Linear(size, features)
        self.generator: torch.Generator | None = None
        self.divergence: Tensor | None = None  # of the latest draw

    def forward(self, features: Tensor) -> Tensor:
        """``(N, features)`` to ``(N, features)``."""
        mean, raw = self.encoder(features).chunk(2, dim=-1)
        code = mean
        if self.generator is not None and torch.is_grad_enabled():
            deviation = softplus(raw)
            noise = torch.randn(mean.shape, generator=self.generator).to(mean)
            code = mean + deviation * noise
            self.divergence = divergence(mean, deviation)
        decoded: Tensor = self.decoder(code)
        return decoded


def divergence(mean: Tensor, deviation: Tensor) -> Tensor:
    """Kullback-Leibler divergence of N(mean, deviation²) from N(0, 1), in bits, mean over the images.

    Args:
        mean: ``(N, size)``.
        deviation: ``(N, size)``, positive.
    """
    bits = 0.5 * (mean.square() + deviation.square() - 1 - 2 * deviation.log()) / math.log(2)
    return bits.flatten(1).sum(1).mean()
