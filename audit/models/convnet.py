"""The ConvNet of the Inverting Gradients paper."""

import math

from pydantic import Field
from torch import nn

from fl_audit.core.units import ModelSpec
from fl_audit.models._blocks import Normalize, check_shape
from fl_audit.models._registry import models


@models.register("convnet")
class ConvNet(ModelSpec):
    """ConvNet of Inverting Gradients: 8 convolutions with batch norm, 2 max pools, one linear layer.

    Geiping, Bauermeister, Dröge and Moeller, "Inverting Gradients", NeurIPS 2020,
    https://arxiv.org/abs/2003.14053, section 5 and its code. 2,904,970 parameters at width 64 for 3x32x32
    and 10 classes. Differs in: the linear layer takes what the pools leave of the image; pools round up for
    images of 8 pixels, of which nothing would be left.
    """

    width: int = Field(64, ge=1, le=1024, description="channels of the first convolution")

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Build for ``(C, H, W)`` images."""
        check_shape(self.name, image_shape)
        channels, height, width = image_shape
        round_up = min(height, width) < 9
        layers: list[nn.Module] = [Normalize(channels)]
        for index, factor in enumerate((1, 2, 2, 4, 4, 4, 4, 4)):
            layers += [nn.Conv2d(channels, factor * self.width, 3, padding=1)]
            channels = factor * self.width
            layers += [nn.BatchNorm2d(channels), nn.ReLU()]
            if index in (5, 7):
                layers.append(nn.MaxPool2d(3, ceil_mode=round_up))
        left = [math.ceil(side / 9) if round_up else side // 9 for side in (height, width)]
        layers += [nn.Flatten(), nn.Linear(channels * left[0] * left[1], num_classes)]
        return nn.Sequential(*layers)
