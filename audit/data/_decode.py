"""Collecting decoded images of a data set into one tensor."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fl_audit.core.decode import pixels
from fl_audit.core.errors import ConfigError

MAX_BYTES = 8 * 2**30
"""Size of a whole data set in memory, as float32."""


def stack(
    images: Iterable[tuple[str, Image.Image]], count: int, spec: str, hint: Callable[[str], str]
) -> Tensor:
    """Collect ``count`` named images of one size: ``(N, C, H, W)`` float32, C = 3 if any is coloured.

    Filled in place, one image at a time, so that the peak is the result itself.

    Args:
        images: name and image, in order.
        count: how many there are.
        spec: the data set's spec, for errors.
        hint: the spec with one more parameter, e.g. ``hint("image_size=32")``.
    """
    out = torch.empty(0)
    first = ""
    for row, (where, image) in enumerate(images):
        tensor = pixels(image, where)
        if row == 0:
            first = where
            out = _allocate((count, *tensor.shape), spec, hint)
        if tensor.shape[1:] != out.shape[2:]:
            raise ConfigError(
                f"dataset {spec!r}: images differ in size: {first} is {out.shape[3]}x{out.shape[2]}, "
                f"{where} is {image.width}x{image.height}. Have them cropped and resized, e.g. "
                f"{hint('image_size=32')}"
            )
        if tensor.shape[0] > out.shape[1]:
            wider = _allocate((count, *tensor.shape), spec, hint)
            wider[:row] = out[:row]
            out = wider
        out[row] = tensor  # a grey image among coloured ones has three equal channels
    return out


def _allocate(shape: tuple[int, ...], spec: str, hint: Callable[[str], str]) -> Tensor:
    size = 4 * int(np.prod(shape, dtype=np.int64))
    if size > MAX_BYTES:
        raise ConfigError(
            f"dataset {spec!r}: {shape[0]} images of {shape[3]}x{shape[2]} need {size / 2**30:.1f} GiB, "
            f"over the limit of {MAX_BYTES // 2**30}. Take fewer ({hint('per_class=200')}) or smaller ones "
            f"({hint('image_size=64')})"
        )
    return torch.empty(shape, dtype=torch.float32)
