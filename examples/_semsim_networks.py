"""Small random networks to attack, and the drawing of options."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

T = TypeVar("T")


class Picker:
    """Draws one of several options."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def __call__(self, options: tuple[T, ...]) -> T:
        """One of ``options``, each as likely as the others."""
        return options[int(torch.randint(len(options), (1,), generator=self.generator))]


def small_network(classes: int, generator: torch.Generator) -> nn.Module:
    """Three to five convolutions of 8 to 24 channels, random activation and strides, one linear layer."""
    pick = Picker(generator)
    act: Callable[[], nn.Module] = pick((nn.ReLU, nn.ReLU, nn.LeakyReLU, nn.GELU, nn.Sigmoid))
    width, size, before = pick((8, 12, 16)), 32, 3
    layers: list[nn.Module] = []
    for index in range(pick((3, 4, 5))):
        # The second layer always halves the image: unfolded patches of large maps are what costs time.
        stride = 2 if index == 1 else pick((1, 2)) if index and size > 8 else 1
        size //= stride
        kernel, after = 5 if index == 0 and pick((True, False)) else 3, width * (1 + index // 2)
        layers += [nn.Conv2d(before, after, kernel, stride, kernel // 2), act()]
        before = after
    if size > 8 and pick((True, False)):
        layers.append(pick((nn.MaxPool2d, nn.AvgPool2d))(2))
        size //= 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * size * size, classes))
