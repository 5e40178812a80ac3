"""The variational bottleneck of PRECODE, as a layer that brings its own part of the loss."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus


class VariationalBottleneck(nn.Module):
    """Encodes features as a Gaussian, draws from it, and decodes the draw.

    Its divergence from the standard normal is part of what any loss of the output is differentiated to, so
    that whoever trains or simulates the model by its usual loss optimises loss plus ``beta`` times divergence.

    The draw needs a `generator`, which only a client has, in training: for everybody else, an attacker
    included, and in evaluation the code is the mean.

    Args:
        features: length of what enters and leaves.
        size: length of the code.
        beta: weight of the divergence in bits per image.
    """

    def __init__(self, features: int, *, size: int, beta: float) -> None:
        super().__init__()
        self.size = size
        self.beta = beta
        self.encoder = nn.Linear(features, 2 * size)
        self.decoder = nn.Linear(size, features)
        self.generator: torch.Generator | None = None

    def forward(self, features: Tensor) -> Tensor:
        """``(N, features)`` to ``(N, features)``."""
        mean, raw = self.encoder(features).chunk(2, dim=-1)
        deviation = softplus(raw)
        code = mean
        if self.generator is not None and torch.is_grad_enabled():
            noise = torch.randn(mean.shape, generator=self.generator).to(mean)
            code = mean + deviation * noise
        penalty = self.beta * divergence(mean, deviation)
        decoded: Tensor = _WithPenalty.apply(self.decoder(code), penalty)
        return decoded


def divergence(mean: Tensor, deviation: Tensor) -> Tensor:
    """Kullback-Leibler divergence of N(mean, deviation²) from N(0, 1), in bits, mean over the images.

    Args:
        mean: ``(N, size)``.
        deviation: ``(N, size)``, positive.
    """
    bits = 0.5 * (mean.square() + deviation.square() - 1 - 2 * deviation.log()) / math.log(2)
    return bits.flatten(1).sum(1).mean()


class _WithPenalty(torch.autograd.Function):
    """The identity on ``output``, whose backward pass also differentiates ``penalty``, with weight 1."""

    generate_vmap_rule = True

    @staticmethod
    def forward(output: Tensor, penalty: Tensor) -> Tensor:
        del penalty
        return output.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        del output
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (penalty,) = ctx.saved_tensors
        return grads[0], torch.ones_like(penalty)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        del ctx
        return tangents[0].clone()
