"""Layers that several models share, and the check that a model takes the images it is built for."""

import torch
from torch import Tensor, nn

from fl_audit.core.errors import ConfigError

MEAN = 0.5
STD = 0.25
"""Normalisation of every channel: natural images in [0, 1] come out with about unit variance."""

MIN_SIZE = 8


class Normalize(nn.Module):
    """``(x - mean) / std`` for each channel.

    The two buffers are not persistent: they are in no state dict, so no client sends them and no attack
    sees them, and the same constants are part of the architecture that threat level B grants.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, *, mean: float = MEAN, std: float = STD) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((1, channels, 1, 1), mean), persistent=False)
        self.register_buffer("std", torch.full((1, channels, 1, 1), std), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1], normalised."""
        return (images - self.mean) / self.std


class GreyToColour(nn.Module):
    """Repeats one channel three times, for architectures whose first layer wants colour."""

    def forward(self, images: Tensor) -> Tensor:
        """``(N, 1, H, W)`` to ``(N, 3, H, W)``."""
        return images.expand(-1, 3, -1, -1)


def check_shape(model: str, image_shape: tuple[int, int, int], smallest: int = MIN_SIZE) -> None:
    """Raise ConfigError unless images are grey or colour and at least ``smallest`` pixels each way."""
    channels, height, width = image_shape
    if channels not in (1, 3) or min(height, width) < smallest:
        raise ConfigError(
            f"model {model!r}: expected images with 1 or 3 channels and at least {smallest}x{smallest} "
            f"pixels, got {channels} channels and {width}x{height}. Choose another model, or enlarge the "
            "images (image_size)"
        )


def check_forward(model: str, module: nn.Module, image_shape: tuple[int, int, int], num_classes: int) -> None:
    """Raise ConfigError unless ``module`` maps one such image to ``(1, num_classes)`` logits."""
    channels, height, width = image_shape
    what = f"{channels} x {height} x {width} images"
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            logits = module(torch.full((1, *image_shape), 0.5))
    except (RuntimeError, ValueError, AssertionError) as error:
        # RuntimeError and ValueError are what torch's layers raise for shapes they cannot take;
        # torchvision's vision transformers use torch._assert.
        reason = str(error).split("\n", 1)[0]
        raise ConfigError(
            f"model {model!r} does not take {what} ({reason}). Many architectures need larger ones: enlarge "
            "them (image_size), or choose another model"
        ) from error
    finally:
        module.train(training)
    if not isinstance(logits, Tensor) or logits.shape != (1, num_classes):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ConfigError(f"model {model!r}: expected logits of shape (1, {num_classes}), got {got}")
