"""Decoding one image file: formats, pixel limits, bit depths and channels, with errors that name the file."""

import io
import struct
import warnings
import zlib

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from fl_audit.core.errors import ConfigError

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that are decoded. Never formats that start programs, e.g. EPS."""

MAX_PIXELS = 50_000_000
"""Pixels of one image, checked in its header before anything is decoded."""

_DEPTH_16 = ("I;16", "I;16L", "I;16B", "I;16N")
_GREY = ("1", "L", "LA", *_DEPTH_16)
_COLOUR = ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")


def open_image(data: bytes, where: str, image_size: int | None = None) -> Image.Image:
    """Decode one file, upright, centre-cropped and resized to ``image_size`` pixels square if given.

    Raises:
        ConfigError: naming ``where``, if it is damaged, too large or of an unsupported kind.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is stricter
            image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise ConfigError(
                f"{where}: {image.width}x{image.height} pixels, over the limit of {MAX_PIXELS:,}"
            )
        image.load()
        if "exif" in image.info:
            image = ImageOps.exif_transpose(image)
    except Image.DecompressionBombError:
        raise ConfigError(f"{where}: far over the limit of {MAX_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise ConfigError(f"{where}: not an image of a known format ({', '.join(FORMATS)})") from None
    except (
        EOFError,
        IndexError,
        OSError,
        SyntaxError,
        TypeError,
        ValueError,
        struct.error,
        zlib.error,
    ) as error:  # what Pillow's decoders raise on damaged files
        raise ConfigError(f"{where}: not a whole image file ({error})") from None
    return fit(image, image_size)


def fit(image: Image.Image, image_size: int | None) -> Image.Image:
    """Centre-crop to a square and resize (bicubic, antialiased), or nothing if ``image_size`` is None."""
    if image_size is None or image.size == (image_size, image_size):
        return image
    if image.mode in ("1", "P", "PA"):
        image = image.convert("L" if image.mode == "1" else "RGB")  # cannot be interpolated
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return square.resize((image_size, image_size), Image.Resampling.BICUBIC)


def pixels(image: Image.Image, where: str) -> Tensor:
    """A PIL image as float32 ``(C, H, W)`` in [0, 1]: grey stays grey, alpha is dropped, 16 bits are kept.

    Raises:
        ConfigError: naming ``where``, if its pixels have no defined range (32-bit integers or floats).
    """
    if image.mode in _DEPTH_16:
        return torch.from_numpy(np.asarray(image).astype(np.float32) / 65535)[None]
    if image.mode in _GREY:
        return torch.from_numpy(np.asarray(image.convert("L"), dtype=np.float32) / 255)[None]
    if image.mode not in _COLOUR:
        raise ConfigError(
            f"{where}: pixels of mode {image.mode!r} have no defined range; save it with 8 or 16 bits"
        )
    colour = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(colour.transpose(2, 0, 1))


def exact_pixels(data: bytes, where: str) -> Tensor:
    """One file as float32 ``(C, H, W)``, refused where decoding it would drop something unseen.

    For comparing two images: what `pixels` leaves out of a training image (transparency, further frames,
    the lower bits of 16-bit colour) would here decide a score. Grey stays one channel; palettes, CMYK and
    the like become RGB. Floats (TIFF) are taken as they are, NaN and values outside [0, 1] included.

    Raises:
        ConfigError: naming ``where`` and the remedy.
    """
    image = open_image(data, where)
    with Image.open(io.BytesIO(data), formats=FORMATS) as header:
        frames: int = getattr(header, "n_frames", 1)
        bits = _bits(header, data)
    if frames > 1:
        raise ConfigError(f"{where}: holds {frames} frames; save the one to compare as a single image")
    if image.mode == "F":
        return torch.from_numpy(np.array(image, dtype=np.float32))[None]
    if bits > 8 and image.mode in _COLOUR:
        raise ConfigError(f"{where}: colour of {bits} bits a channel; save it with 8 bits a channel")
    if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
        raise ConfigError(
            f"{where}: has transparent pixels, whose colour depends on what lies behind; flatten it first"
        )
    return pixels(image, where)


def _bits(header: Image.Image, data: bytes) -> int:
    """Bits of one channel as the file stores them; Pillow reads colour of 16 bits as 8."""
    if header.format == "PNG":
        return data[24]  # in the header chunk, which comes first
    if header.format == "TIFF":
        depths = getattr(header, "tag_v2", {}).get(258, 8)
        return max(depths) if isinstance(depths, tuple) else int(depths)
    return 8
