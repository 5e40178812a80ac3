"""A multi-layer perceptron, whose first layer gives its input away."""

from itertools import pairwise

from pydantic import Field
from torch import nn

from fl_audit.core.units import ModelSpec
from fl_audit.models._blocks import check_shape
from fl_audit.models._registry import models


@models.register("mlp")
class Mlp(ModelSpec):
    """Perceptron on the flat pixels: linear layers with bias and ReLU between them.

    The first layer is linear with bias on the raw pixels in [0, 1], without normalisation, so the gradient
    of its weights holds the input in closed form (attack ``analytic``).
    """

    width: int = Field(256, ge=1, le=65536, description="units of each hidden layer")
    hidden: int = Field(1, ge=1, le=16, description="hidden layers")

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Build for ``(C, H, W)`` images."""
        check_shape(self.name, image_shape)
        channels, height, width = image_shape
        sizes = [channels * height * width, *[self.width] * self.hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(self.width, num_classes))
