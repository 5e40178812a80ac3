"""A user's own data set: ``module:function``."""

from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fl_audit.core.errors import ConfigError
from fl_audit.core.images import check_images
from fl_audit.core.registry import import_object
from fl_audit.core.units import Dataset, ImageData


class DatasetFunction(Dataset):
    """Your own: ``module:function`` returning (images, labels) or an ImageData.

    The function is called without arguments. ``images`` is ``(N, C, H, W)`` in [0, 1] with C 1 or 3,
    ``labels`` is ``(N,)`` with integers from 0; tensors or numpy arrays.
    """

    name: ClassVar[str] = "function"

    spec: str = Field(description="module:function")

    def load(self) -> ImageData:
        """Call the function and check what it returns; a ConfigError says what is wrong with it."""
        function = import_object(self.spec, "dataset")
        if not callable(function):
            raise ConfigError(f"dataset {self.spec!r}: expected a function, got {type(function).__name__}")
        return _checked(self.spec, function())


def _checked(spec: str, value: Any) -> ImageData:
    if isinstance(value, ImageData):
        images, labels, classes, title = value.images, value.labels, value.classes, value.title
    elif isinstance(value, tuple) and len(value) == 2:
        images, labels, classes, title = _tensor(spec, value[0]), _tensor(spec, value[1]), None, spec
        if images.dtype == torch.float64:
            images = images.float()
    else:
        raise ConfigError(
            f"dataset {spec!r}: expected (images, labels) or an ImageData, got {type(value).__name__}"
        )
    try:
        check_images(images)
    except ValueError as error:
        raise ConfigError(f"dataset {spec!r}: {error}") from None
    if labels.shape != (len(images),) or labels.dtype.is_floating_point or not len(labels):
        raise ConfigError(
            f"dataset {spec!r}: expected one integer label for each of the {len(images)} images (one at "
            f"least), got {labels.dtype} {tuple(labels.shape)}"
        )
    low, high = int(labels.min()), int(labels.max())
    names = tuple(str(label) for label in range(high + 1)) if classes is None else tuple(classes)
    if low < 0 or high >= len(names):
        raise ConfigError(
            f"dataset {spec!r}: labels run from {low} to {high}, expected 0 to {len(names) - 1}"
        )
    return ImageData(images, labels.long(), names, title)


def _tensor(spec: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, list):
        return torch.tensor(value)
    raise ConfigError(f"dataset {spec!r}: expected a tensor or a numpy array, got {type(value).__name__}")
