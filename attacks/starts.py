"""Where the optimisation starts."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import interpolate

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


@dataclass(frozen=True)
class Pattern:
    """A small random tile, repeated over the image.

    Wei et al., "A Framework for Evaluating Gradient Leakage Attacks in Federated Learning", 2020,
    https://arxiv.org/abs/2004.10397, section 4.1 (patterned randomisation).

    Attributes:
        size: side of the tile in pixels.
    """

    size: int = 4

    def __call__(self, problem: Problem, labels: Labels) -> Tensor:
        """See `Start`."""
        del labels
        images, channels, height, width = problem.shape
        tile = torch.rand(images, channels, self.size, self.size, generator=problem.generator)
        times = (1, 1, -(-height // self.size), -(-width // self.size))
        return tile.repeat(times)[..., :height, :width]


@dataclass(frozen=True)
class MeanImage:
    """The mean of the surrogate images where they are granted, else grey; plus a little noise.

    Most images are nearer to it than to noise, and nothing has to be unlearnt. The noise makes restarts
    differ, and the images of one label: the gradient cannot tell equal images apart.

    Attributes:
        std: standard deviation of the noise.
        level: value of the grey.
    """

    std: float = 0.05
    level: float = 0.5

    def __call__(self, problem: Problem, labels: Labels) -> Tensor:
        """See `Start`."""
        del labels
        mean = torch.full(problem.image_shape, self.level)
        surrogate = problem.surrogate
        if surrogate is not None and tuple(surrogate.shape[1:]) == problem.image_shape:
            mean = surrogate.mean(0).cpu()
        return (mean + self.std * torch.randn(problem.shape, generator=problem.generator)).clamp(0, 1)


@dataclass(frozen=True)
class SmoothNoise:
    """`NormalNoise` at a lower resolution, enlarged: smooth like natural images.

    Attributes:
        factor: by how much the sides of the image are reduced.
        mean: of the pixels.
        std: of the pixels before they are enlarged.
    """

    factor: int = 8
    mean: float = 0.5
    std: float = 0.25

    def __call__(self, problem: Problem, labels: Labels) -> Tensor:
        """See `Start`."""
        del labels
        images, channels, height, width = problem.shape
        coarse = (images, channels, -(-height // self.factor), -(-width // self.factor))
        noise = torch.randn(coarse, generator=problem.generator) * self.std + self.mean
        smooth = interpolate(noise, size=(height, width), mode="bilinear", align_corners=False)
        return smooth.clamp(0, 1)


@dataclass(frozen=True)
class Given:
    """Images that another attack found; those that it did not find start elsewhere.

    Attributes:
        images: ``(N, C, H, W)`` in [0, 1] in the order of the labels; an image with a NaN is missing.
        missing: where missing images start.
    """

    images: Tensor
    missing: Start = MeanImage()

    def __call__(self, problem: Problem, labels: Labels) -> Tensor:
        """See `Start`.

        Raises:
            ValueError: the images do not have the problem's shape.
        """
        if tuple(self.images.shape) != problem.shape:
            raise ValueError(f"expected images of shape {problem.shape}, got {tuple(self.images.shape)}")
        images = self.images.detach().float().cpu()
        found = torch.isfinite(images).flatten(1).all(1)[:, None, None, None]
        return torch.where(found, images.clamp(0, 1), self.missing(problem, labels).cpu())


class Found:
    """`Problem.found`: what an earlier search for the same images found."""

    def __call__(self, problem: Problem, labels: Labels) -> Tensor:
        """See `Start`.

        Raises:
            ValueError: nothing was found, or not for this problem.
        """
        if problem.found is None:
            raise ValueError("nothing was found for this problem yet")
        return Given(problem.found)(problem, labels)
