"""Image tensors: ``(N, C, H, W)``, float32, [0, 1]. Checks, and the one way to and from 8-bit PNG."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fl_audit.core.files import write_bytes


def check_images(images: Tensor, name: str = "images") -> None:
    """Raise ValueError unless ``images`` is float32 ``(N, C, H, W)`` with 1 or 3 channels in [0, 1]."""
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.dtype != torch.float32:
        raise ValueError(
            f"{name}: expected float32 (N, C, H, W) with C 1 or 3, got {images.dtype} {tuple(images.shape)}"
        )
    if images.numel() and not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError(
            f"{name}: expected values in [0, 1], got {float(images.min())} to {float(images.max())}"
        )


def to_uint8(image: Tensor) -> np.ndarray:
    """One ``(C, H, W)`` image in [0, 1] as uint8 ``(H, W)`` (grey) or ``(H, W, 3)``, rounded."""
    pixels = (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def png_bytes(image: Tensor) -> bytes:
    """One ``(C, H, W)`` image in [0, 1] as an 8-bit PNG."""
    buffer = io.BytesIO()
    Image.fromarray(to_uint8(image)).save(buffer, format="PNG")
    return buffer.getvalue()


def write_png(path: Path, image: Tensor) -> None:
    """Write one ``(C, H, W)`` image in [0, 1] as an 8-bit PNG."""
    write_bytes(path, png_bytes(image))


def from_pil(image: Image.Image, channels: int | None = None) -> Tensor:
    """A PIL image as float32 ``(C, H, W)`` in [0, 1]; ``channels`` 1 or 3 converts, None keeps grey grey."""
    grey = image.mode in ("1", "L", "LA", "I;16") if channels is None else channels == 1
    pixels = np.asarray(image.convert("L" if grey else "RGB"), dtype=np.float32) / 255.0
    return torch.from_numpy(pixels[None] if grey else pixels.transpose(2, 0, 1).copy())
