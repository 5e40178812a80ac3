"""Image files for the tests."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def pixels(seed: int, *, side: int = 16, channels: int = 3) -> np.ndarray:
    """A smooth random image, uint8 ``(side, side[, 3])``."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, size=(4, 4, channels), dtype=np.uint8)
    fine = coarse.repeat(side // 4, 0).repeat(side // 4, 1)
    return fine[..., 0] if channels == 1 else fine


def noisy(image: np.ndarray, level: float, seed: int = 0) -> np.ndarray:
    """The image with Gaussian noise of ``level`` grey values."""
    noise = np.random.default_rng(seed).normal(scale=level, size=image.shape)
    return (image + noise).clip(0, 255).astype(np.uint8)


def save(path: Path, image: np.ndarray) -> Path:
    """Write an image in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def png16(image: np.ndarray) -> bytes:
    """A colour PNG of 16 bits a channel, which Pillow cannot write; ``image`` is uint16 ``(H, W, 3)``."""
    height, width, _ = image.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in image)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
