"""Residual networks for small images."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import nn

from fl_audit.core.units import ModelSpec
from fl_audit.models._blocks import Normalize, check_shape
from fl_audit.models._registry import models

Stem = Literal["auto", "small", "large"]


@models.register("resnet20-4")
class ResNet20(ModelSpec):
    """ResNet20-4 of Inverting Gradients: ResNet-20 for CIFAR, four times as wide.

    He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016,
    https://arxiv.org/abs/1512.03385, section 4.2, as in the code of Geiping et al., "Inverting Gradients",
    NeurIPS 2020, https://arxiv.org/abs/2003.14053: shortcuts are projections, He initialisation.
    4,327,754 parameters for 10 classes and colour.
    """

    factor: int = Field(4, ge=1, le=16, description="channels of the first layer, in units of 16")

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Build for ``(C, H, W)`` images."""
        check_shape(self.name, image_shape)
        width = 16 * self.factor
        stem = small_stem(image_shape[0], width)
        return residual_network(image_shape[0], stem, (width, 2 * width, 4 * width), 3, num_classes)


@models.register("resnet18")
class ResNet18(ModelSpec):
    """ResNet-18: small stem (3x3, no pool) for images under 64 pixels, else the one for ImageNet.

    He et al., CVPR 2016, https://arxiv.org/abs/1512.03385, table 1. 11,173,962 parameters with the small
    stem, 11,181,642 with the large one (as torchvision's), for 10 classes and colour.
    """

    stem: Stem = Field("auto", description="small: 3x3 without pool; large: 7x7 and pool; auto: by size")

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Build for ``(C, H, W)`` images."""
        check_shape(self.name, image_shape)
        channels, height, width = image_shape
        large = self.stem == "large" or (self.stem == "auto" and min(height, width) >= 64)
        stem = large_stem(channels, 64) if large else small_stem(channels, 64)
        return residual_network(channels, stem, (64, 128, 256, 512), 2, num_classes)


def small_stem(channels: int, width: int) -> list[nn.Module]:
    """A 3x3 convolution that keeps the size."""
    return [
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]


def large_stem(channels: int, width: int) -> list[nn.Module]:
    """A 7x7 convolution and a max pool, which quarter the size."""
    return [
        nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
    ]


def residual_network(
    channels: int, stem: list[nn.Module], widths: Sequence[int], blocks: int, num_classes: int
) -> nn.Sequential:
    """Stem, stages of ``blocks`` basic blocks of the given widths, average pool, linear layer."""
    # Imported here: torchvision is slow to import and only these models need it.
    from torchvision.models.resnet import BasicBlock

    layers: list[nn.Module] = [Normalize(channels), *stem]
    before = widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            shortcut = None
            if stride != 1 or before != width:
                shortcut = nn.Sequential(
                    nn.Conv2d(before, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
                )
            layers.append(BasicBlock(before, width, stride, shortcut))
            before = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, num_classes)]
    model = nn.Sequential(*layers)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model
