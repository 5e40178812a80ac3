"""The LeNet variant of the Deep Leakage from Gradients paper."""

import torch
from torch import nn

from fl_audit.core.units import ModelSpec
from fl_audit.models._blocks import Normalize, check_shape
from fl_audit.models._registry import models

WIDTH = 12


@models.register("lenet")
class LeNet(ModelSpec):
    """LeNet of the DLG paper: 3 convolutions with 12 channels, sigmoid, one linear layer.

    Zhu, Liu and Han, "Deep Leakage from Gradients", NeurIPS 2019, https://arxiv.org/abs/1906.08935, section
    4.1, with strides 2, 2, 1 and weights and biases uniform in [-0.5, 0.5] as in its code: smooth, so that
    second-order attacks work. 15,826 parameters for 3x32x32 and 10 classes. Differs in: pixels are
    normalised by the model; any image size from 8 pixels.
    """

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Build for ``(C, H, W)`` images."""
        check_shape(self.name, image_shape)
        channels, height, width = image_shape
        features = WIDTH * -(-height // 4) * -(-width // 4)
        model = nn.Sequential(
            Normalize(channels),
            nn.Conv2d(channels, WIDTH, 5, stride=2, padding=2),
            nn.Sigmoid(),
            nn.Conv2d(WIDTH, WIDTH, 5, stride=2, padding=2),
            nn.Sigmoid(),
            nn.Conv2d(WIDTH, WIDTH, 5, stride=1, padding=2),
            nn.Sigmoid(),
            nn.Flatten(),
            nn.Linear(features, num_classes),
        )
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.uniform_(-0.5, 0.5)
        return model
