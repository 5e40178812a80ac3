"""Classification models of torchvision, by torchvision's name."""

import functools
import inspect
from typing import Any, ClassVar

from pydantic import Field
from torch import nn

from fl_audit.core.errors import ConfigError
from fl_audit.core.units import ModelSpec
from fl_audit.models._blocks import GreyToColour, Normalize, check_forward, check_shape


class TorchvisionModel(ModelSpec):
    """A classification model of torchvision, untrained. Grey images are repeated to three channels."""

    name: ClassVar[str] = "torchvision"

    architecture: str = Field(description="torchvision's name, e.g. mobilenet_v3_small")

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Build for ``(C, H, W)`` images; a ConfigError says so where they are too small for it."""
        from torchvision.models import get_model, get_model_builder

        check_shape(self.architecture, image_shape)
        channels, height, width = image_shape
        options: dict[str, Any] = {"weights": None, "num_classes": num_classes}
        if self.architecture in ("googlenet", "inception_v3"):
            options |= {"aux_logits": False, "init_weights": True}  # one output, and no warning
        if self.architecture.startswith("vit_"):
            options["image_size"] = height
        if "input_size" in inspect.signature(get_model_builder(self.architecture)).parameters:
            options["input_size"] = (height, width)  # maxvit
        try:
            core = get_model(self.architecture, **options)
        except (RuntimeError, ValueError, AssertionError) as error:
            reason = str(error).split("\n", 1)[0]
            raise ConfigError(
                f"model {self.architecture!r} cannot be built for {width}x{height} images ({reason})"
            ) from error
        colour: list[nn.Module] = [GreyToColour()] if channels == 1 else []
        model = nn.Sequential(Normalize(channels), *colour, core)
        key = (self.architecture, image_shape, num_classes)
        if key not in _CHECKED:
            check_forward(self.architecture, model, image_shape, num_classes)
            _CHECKED.add(key)
        return model


_CHECKED: set[tuple[str, tuple[int, int, int], int]] = set()
"""What was found to take its images: clients build the same model over and over."""


@functools.cache
def torchvision_names() -> tuple[str, ...]:
    """Names of torchvision's classification models."""
    import torchvision.models

    return tuple(torchvision.models.list_models(module=torchvision.models))
