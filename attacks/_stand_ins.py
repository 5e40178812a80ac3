"""Images that stand in for a client's, which an attacker who holds none draws by itself."""

import torch
from torch import Tensor

SHAPES = 40
"""Shapes in an image: with sizes as below they cover nearly all of it."""

SMALLEST, LARGEST = 0.05, 0.6
"""Sizes of shapes, in widths of the image."""


def dead_leaves(count: int, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Images of shapes that cover each other, with the statistics of natural ones: edges at every scale.

    Lee, Mumford and Huang, "Occlusion Models for Natural Images", IJCV 2001. Networks take them for natural
    images far more than noise: Baradad et al., "Learning to See by Looking at Noise", NeurIPS 2021,
    https://arxiv.org/abs/2106.05963. Differs in: discs and rectangles of one grey level with a tint, shaded
    linearly.

    Args:
        count: how many, M.
        shape: ``(C, H, W)``.
        generator: on the CPU.

    Returns:
        Float32 ``(M, C, H, W)`` in [0, 1], on the CPU.
    """
    channels, height, width = shape
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")

    def uniform(*size: int) -> Tensor:
        return torch.rand(count, *size, generator=generator)

    def normal(*size: int) -> Tensor:
        return torch.randn(count, *size, generator=generator)

    images = uniform(channels, 1, 1).expand(-1, -1, height, width)
    ratio = SMALLEST / LARGEST
    for _ in range(SHAPES):
        size = SMALLEST / (uniform(1, 1) * (1 - ratio) + ratio)  # a density of size ** -2
        stretch = (0.5 * normal(1, 1)).exp()
        across, along = (x - uniform(1, 1)) * stretch, (y - uniform(1, 1)) / stretch
        disc = across.square() + along.square() < size.square()
        rectangle = torch.maximum(across.abs(), along.abs()) < 0.8 * size
        inside = torch.where(uniform(1, 1) < 0.5, disc, rectangle)
        colour = (uniform(1, 1, 1) + 0.25 * (uniform(channels, 1, 1) - 0.5)).clamp(0, 1)
        shade = 1 + 0.3 * (across * normal(1, 1) + along * normal(1, 1))
        images = torch.where(inside[:, None], (colour * shade[:, None]).clamp(0, 1), images)
    return images
