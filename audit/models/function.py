"""A user's own model: ``module:function``."""

import inspect
from typing import Any, ClassVar

from pydantic import Field
from torch import nn

from fl_audit.core.errors import ConfigError
from fl_audit.core.registry import import_object
from fl_audit.core.units import ModelSpec
from fl_audit.models._blocks import check_forward


class ModelFunction(ModelSpec):
    """Your own: ``module:function(image_shape, num_classes)``, or a class without arguments.

    ``image_shape`` is ``(C, H, W)``. The module takes images in [0, 1]; if it wants them normalised, that is
    for its own first layer to do.
    """

    name: ClassVar[str] = "function"

    spec: str = Field(description="module:function")

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Call the function and check that the module takes such images."""
        function = import_object(self.spec, "model")
        module = function(*_arguments(self.spec, function, image_shape, num_classes))
        if not isinstance(module, nn.Module):
            raise ConfigError(f"model {self.spec!r}: expected an nn.Module, got {type(module).__name__}")
        check_forward(self.spec, module, image_shape, num_classes)
        return module


def _arguments(
    spec: str, function: Any, image_shape: tuple[int, int, int], num_classes: int
) -> tuple[Any, ...]:
    """Both arguments if it takes two, none if it needs none."""
    if not callable(function):
        raise ConfigError(f"model {spec!r}: expected a function or class, got {type(function).__name__}")
    signature = inspect.signature(function)
    for arguments in ((image_shape, num_classes), ()):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return arguments
    raise ConfigError(
        f"model {spec!r}: expected a function of (image_shape, num_classes) or of nothing, got {signature}"
    )
