"""LPIPS: distance of deep features, weighted to follow people's judgements."""

import functools
import warnings
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import interpolate

from fl_audit.core.seeding import seeded_globals
from fl_audit.metrics._base import Metric
from fl_audit.metrics._registry import metrics
from fl_audit.metrics._weights import load_weights, problem, weight_files

SMALLEST = 32
"""Pixels: smaller images are enlarged to this, since the backbones would pool them away."""

_BATCH = 64

Backbone = Literal["alex", "vgg", "squeeze"]


def lpips_distance(x: Tensor, y: Tensor, network: nn.Module) -> Tensor:
    """LPIPS of each image, by the ``lpips`` package's own network.

    Zhang, Isola, Efros, Shechtman and Wang, "The Unreasonable Effectiveness of Deep Features as a Perceptual
    Metric", CVPR 2018, https://arxiv.org/abs/1801.03924, equation 1. Grey images are repeated to three
    channels; images whose shorter side is under 32 pixels are enlarged to that (bilinear).

    Args:
        x: images ``(N, C, H, W)`` in [0, 1].
        y: the same shape and range.
        network: an ``lpips.LPIPS`` in eval mode, on the images' device.

    Returns:
        ``(N,)``, 0 for identical images.
    """
    values = [
        network(_prepare(a), _prepare(b), normalize=True).flatten()
        for a, b in zip(torch.split(x, _BATCH), torch.split(y, _BATCH), strict=True)
    ]
    return torch.cat(values)


@metrics.register("lpips")
class Lpips(Metric):
    """Learned perceptual distance (Zhang et al. 2018), version 0.1, lower is closer.

    The linear layers come with the ``lpips`` package; the backbone's ImageNet weights do not.
    """

    better = "lower"
    range = (0.0, float("inf"))
    needs = "ImageNet weights of the backbone (fl-audit doctor --download)"

    net: Backbone = Field("alex", description="backbone: alex, vgg or squeeze")

    def unavailable(self) -> str | None:
        """Says so where the backbone's weights are missing; nothing is ever downloaded here."""
        return problem(self.net)

    def _score(self, originals: Tensor, reconstructions: Tensor) -> Tensor:
        stamp = weight_files()[self.net].path.stat().st_mtime_ns
        network = _network(self.net, stamp).to(originals.device)
        return lpips_distance(originals, reconstructions, network)


@metrics.register("lpips-vgg")
class LpipsVgg(Lpips):
    """Learned perceptual distance on VGG-16's features; slower than ``lpips``, which uses AlexNet's."""

    label = "LPIPS (VGG)"
    brief = False
    default = False

    net: Backbone = Field("vgg", description="backbone: alex, vgg or squeeze")


@metrics.register("lpips-squeeze")
class LpipsSqueeze(Lpips):
    """Learned perceptual distance on SqueezeNet's features."""

    label = "LPIPS (SqueezeNet)"
    brief = False
    default = False

    net: Backbone = Field("squeeze", description="backbone: alex, vgg or squeeze")


def _prepare(images: Tensor) -> Tensor:
    images = images.expand(-1, 3, -1, -1)
    shorter = min(images.shape[2:])
    if shorter >= SMALLEST:
        return images
    size = [round(side * SMALLEST / shorter) for side in images.shape[2:]]
    return interpolate(images, size, mode="bilinear", align_corners=False)


@functools.lru_cache(maxsize=3)
def _network(net: Backbone, stamp: int) -> nn.Module:
    """The package's network with the weights on this machine; ``stamp``, their time, keys the cache."""
    del stamp
    # Imported here: the package pulls in torchvision and scikit-image.
    import lpips

    weights = load_weights(net)
    with seeded_globals(0, "lpips"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips calls torchvision by a deprecated argument
        # pnet_rand: asked for trained weights, the package would download them; they are loaded below.
        network: nn.Module = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    backbone = network.get_submodule("net")
    # lpips cuts torchvision's "features" into slices and keeps the numbers: slice2.3.bias is features.3.bias
    backbone.load_state_dict(
        {name: weights[f"features.{name.partition('.')[2]}"] for name in backbone.state_dict()}
    )
    return network.eval().requires_grad_(False)
