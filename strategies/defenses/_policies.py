"""The 50 operations that ATS searched over, by number, on 8-bit images. Facts from the paper's code."""

import math
from collections.abc import Callable, Collection

import torch
from PIL import Image, ImageEnhance, ImageOps

Operation = Callable[[Image.Image, float, int], Image.Image]
"""From image, magnitude and sign (-1 or 1, where the operation has a direction) to image."""

BOTH = "3-1-7/43-18-18"

GEOMETRY = frozenset(("rotate", "translate-x", "translate-y", "shear-y"))
"""Operations that move what is seen; the others change its colours in place."""

OPERATIONS: tuple[tuple[str, int], ...] = (
    *(("invert", 7), ("contrast", 6), ("rotate", 2), ("translate-x", 9), ("sharpness", 1)),
    *(("sharpness", 3), ("shear-y", 2), ("translate-y", 2), ("autocontrast", 5), ("equalize", 2)),
    *(("shear-y", 5), ("posterize", 5), ("color", 3), ("brightness", 5), ("sharpness", 9)),
    *(("brightness", 9), ("equalize", 5), ("equalize", 1), ("contrast", 7), ("sharpness", 5)),
    *(("color", 5), ("translate-x", 5), ("equalize", 7), ("autocontrast", 8), ("translate-y", 3)),
    *(("sharpness", 6), ("brightness", 6), ("color", 8), ("solarize", 0), ("invert", 0)),
    *(("equalize", 0), ("autocontrast", 0), ("equalize", 8), ("equalize", 4), ("color", 5)),
    *(("equalize", 5), ("autocontrast", 4), ("solarize", 4), ("brightness", 3), ("color", 0)),
    *(("solarize", 1), ("autocontrast", 0), ("translate-y", 3), ("translate-y", 3), ("autocontrast", 1)),
    *(("solarize", 1), ("equalize", 5), ("invert", 0), ("translate-y", 3), ("autocontrast", 1)),
)
"""Operation and step of its range, 0 to 9, by the number that policies call it."""


def parse_policies(text: str) -> tuple[tuple[int, ...], ...]:
    """The operations of each policy; ``3-1-7`` is one policy, ``/`` separates several.

    Raises:
        ValueError: it has not that form.
    """
    policies = []
    for policy in text.split("/"):
        numbers = policy.split("-")
        if not all(number.isdecimal() and int(number) < len(OPERATIONS) for number in numbers):
            raise ValueError(
                f"expected both, or operations 0 to {len(OPERATIONS) - 1} joined by -, policies separated by "
                "/, e.g. 3-1-7 or 3-1-7/43-18-18"
            )
        policies.append(tuple(int(number) for number in numbers))
    return tuple(policies)


def transform(image: Image.Image, policy: tuple[int, ...], rng: torch.Generator) -> Image.Image:
    """Apply the operations of ``policy`` in order; ``image`` is grey or RGB, 8 bits a channel."""
    return apply(image, policy, draw_signs(policy, rng))


def draw_signs(policy: tuple[int, ...], rng: torch.Generator) -> tuple[int, ...]:
    """The direction of each operation, -1 or 1."""
    return tuple(1 if int(torch.randint(2, (1,), generator=rng)) else -1 for _ in policy)


def apply(
    image: Image.Image, policy: tuple[int, ...], signs: tuple[int, ...], only: Collection[str] | None = None
) -> Image.Image:
    """Apply the operations of ``policy`` in the directions ``signs``; those named in ``only``, or all."""
    for number, sign in zip(policy, signs, strict=True):
        name, step = OPERATIONS[number]
        if only is None or name in only:
            image = _OPERATIONS[name](image, _magnitude(name, step), sign)
    return image


def _magnitude(name: str, step: int) -> float:
    low, high = _RANGES.get(name, (0.0, 0.0))
    return low + (high - low) * step / 9


_RANGES = {
    "shear-y": (0.0, 0.3),
    "translate-x": (0.0, 150 / 331),
    "translate-y": (0.0, 150 / 331),
    "rotate": (0.0, 30.0),
    "color": (0.0, 0.5),
    "posterize": (8.0, 4.0),
    "solarize": (256.0, 0.0),
    "contrast": (0.0, 0.5),
    "sharpness": (0.0, 0.5),
    "brightness": (0.0, 0.5),
}
"""Magnitude at steps 0 and 9: share of the side, degrees, change of the factor 1, bits, threshold."""


def _affine(image: Image.Image, terms: tuple[float, ...], resample: Image.Resampling) -> Image.Image:
    black = 0 if image.mode == "L" else (0, 0, 0)
    return image.transform(image.size, Image.Transform.AFFINE, terms, resample, fillcolor=black)


def _shear_y(image: Image.Image, magnitude: float, sign: int) -> Image.Image:
    return _affine(image, (1, 0, 0, magnitude * sign, 1, 0), Image.Resampling.BICUBIC)


def _translate_x(image: Image.Image, magnitude: float, sign: int) -> Image.Image:
    return _affine(image, (1, 0, magnitude * image.size[0] * sign, 0, 1, 0), Image.Resampling.NEAREST)


def _translate_y(image: Image.Image, magnitude: float, sign: int) -> Image.Image:
    return _affine(image, (1, 0, 0, 0, 1, magnitude * image.size[1] * sign), Image.Resampling.NEAREST)


def _rotate(image: Image.Image, magnitude: float, sign: int) -> Image.Image:
    """Counter-clockwise, always; the corners become grey."""
    del sign
    turned = image.convert("RGBA").rotate(magnitude)
    return Image.composite(turned, Image.new("RGBA", turned.size, (128,) * 4), turned).convert(image.mode)


def _posterize(image: Image.Image, magnitude: float, sign: int) -> Image.Image:
    del sign
    return ImageOps.posterize(image, round(magnitude))


def _solarize(image: Image.Image, magnitude: float, sign: int) -> Image.Image:
    del sign
    return ImageOps.solarize(image, math.ceil(magnitude))  # pixels below the threshold stay


def _enhanced(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return lambda image, magnitude, sign: kind(image).enhance(1 + magnitude * sign)


def _plain(change: Callable[[Image.Image], Image.Image]) -> Operation:
    return lambda image, magnitude, sign: change(image)


_OPERATIONS: dict[str, Operation] = {
    "shear-y": _shear_y,
    "translate-x": _translate_x,
    "translate-y": _translate_y,
    "rotate": _rotate,
    "posterize": _posterize,
    "solarize": _solarize,
    "color": _enhanced(ImageEnhance.Color),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "autocontrast": _plain(ImageOps.autocontrast),
    "equalize": _plain(ImageOps.equalize),
    "invert": _plain(ImageOps.invert),
}
