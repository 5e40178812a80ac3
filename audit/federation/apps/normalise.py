"""From what a model is fed back to images in [0, 1]: as told, by what the app has, or by the pixels.

Pixels of 8 bits settle it: under the right normalisation, and hardly under any other, 255 times the image is
whole numbers. Where they are no such pixels any more (resized as floats, rotated, half precision), the
normalisation that ran counts, then the range.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_audit.federation.apps.levels import are_quantised, by_levels, on_levels
from fl_audit.federation.apps.origin import Norm

SLACK = 1e-3
"""How far outside [0, 1] rounding may take a pixel: float16, or interpolation after normalisation."""

LOOKED_AT = 256
"""Images that are looked at; whoever asks checks that the others fit as well."""

IDENTITY: Norm = ((0.0,), (1.0,))
HALVES: Norm = ((0.5,), (0.5,))
BYTES: Norm = ((0.0,), (1 / 255,))

WELL_KNOWN: dict[str, Norm] = {
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR-10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "CIFAR-10 as often copied": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "CIFAR-100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "MNIST": ((0.1307,), (0.3081,)),
    "Fashion-MNIST": ((0.2860,), (0.3530,)),
}
"""Constants that apps use; believed only where the pixels confirm them."""


@dataclass(frozen=True)
class Normalisation:
    """``input = (image - mean) / std``, and how that was found out."""

    norm: Norm
    how: str

    def undo(self, inputs: Tensor) -> Tensor:
        """Images in [0, 1] from inputs ``(N, C, H, W)``."""
        return undone(inputs, self.norm).clamp(0, 1)


def as_images(
    inputs: Tensor, told: tuple[int, int, int] | None, earlier: tuple[int, int, int] | None
) -> Tensor | str:
    """What a model is fed as ``(N, C, H, W)``, or why it is no images.

    Args:
        inputs: what it was fed.
        told: shape of images that it takes flat, where the user says so.
        earlier: shape of the images before.
    """
    if inputs.ndim == 2 and told is not None:
        if inputs.shape[1] != torch.Size(told).numel():
            return f"the model's input has {inputs.shape[1]} values, not those of --image-shape"
        inputs = inputs.reshape(-1, *told)
    if inputs.ndim != 4 or inputs.shape[1] not in (1, 3):
        return (
            f"not a gradient of an image model: the model's input has shape {tuple(inputs.shape)}, "
            "expected images (N, 1 or 3, H, W). If these are images that the app flattens, say so: "
            "--image-shape C,H,W"
        )
    if earlier not in (None, shape_of(inputs)):
        return f"the images have shape {shape_of(inputs)}, those of earlier clients {earlier}"
    return inputs


def shape_of(images: Tensor) -> tuple[int, int, int]:
    """``(C, H, W)``."""
    return (images.shape[1], images.shape[2], images.shape[3])


def find_normalisation(
    inputs: Tensor, called: Sequence[Norm], made: Sequence[Norm], told: Sequence[float] | None
) -> Normalisation | str:
    """Which affine map of [0, 1] the inputs are, or why nobody knows.

    Args:
        inputs: what the model was fed, ``(N, C, H, W)``.
        called: normalisations that ran while the client trained, the latest first.
        made: those that the app has, whether or not they were seen to run (data loaders may run elsewhere).
        told: what 0 and 1 of an image are at the model's input, where the user says so, for all channels or
            for each.
    """
    low, high = float(inputs.min()), float(inputs.max())
    if told is not None:
        return _told(inputs, told)
    inputs = _some(inputs)
    candidates = [c for c in _candidates(called, made, low, high) if _for(inputs, c.norm)]
    for found in candidates:
        if on_levels(undone(inputs, found.norm)):
            return found
    for name, norm in WELL_KNOWN.items():
        if _for(inputs, norm) and on_levels(undone(inputs, norm)):
            return Normalisation(norm, f"{_words(norm)}, that of {name}, which the pixels confirm")
    worked_out = by_levels(inputs)
    if worked_out is not None:
        how = f"{_words(worked_out)}, worked out from the 256 levels of the pixels"
        return Normalisation(worked_out, how)
    if candidates and not are_quantised(inputs):  # whose levels would show under the right one
        return candidates[0]
    return (
        f"the model's input runs from {low:.4g} to {high:.4g}, and no Normalize of torchvision was seen that "
        "makes this of images in [0, 1]. Say what black and white are at the model's input: "
        "--input-range LOW,HIGH, or for each channel LOW,HIGH,LOW,HIGH,LOW,HIGH"
    )


def contradicts(
    inputs: Tensor,
    norm: Norm,
    called: Sequence[Norm],
    made: Sequence[Norm],
) -> bool:
    """Whether the pixels say that ``inputs`` went through another normalisation than ``norm``."""
    inputs = _some(inputs)
    if on_levels(undone(inputs, norm)):
        return False
    other = find_normalisation(inputs, called, made, None)
    return isinstance(other, Normalisation) and on_levels(undone(inputs, other.norm))


def fits(inputs: Tensor, norm: Norm) -> bool:
    """Whether ``inputs`` are images in [0, 1] under ``norm``."""
    images = undone(inputs, norm)
    return bool(images.min() >= -SLACK) and bool(images.max() <= 1 + SLACK)


def undone(inputs: Tensor, norm: Norm) -> Tensor:
    """``inputs * std + mean``."""
    mean, std = (torch.tensor(part).view(1, -1, 1, 1) for part in norm)
    return inputs * std + mean


def told_normalisation(told: Sequence[float]) -> Normalisation:
    """What ``--input-range`` says: what 0 and 1 of an image are, for all channels or for each."""
    pairs = list(zip(told[::2], told[1::2], strict=True))
    norm: Norm = (
        tuple(-low / (high - low) for low, high in pairs),
        tuple(1 / (high - low) for low, high in pairs),
    )
    return Normalisation(norm, f"--input-range {','.join(f'{value:g}' for value in told)}")


def _some(inputs: Tensor) -> Tensor:
    """As many as are looked at, evenly spread."""
    return inputs[:: -(-len(inputs) // LOOKED_AT)]


def _told(inputs: Tensor, told: Sequence[float]) -> Normalisation | str:
    found = told_normalisation(told)
    channels = len(found.norm[0])
    if channels not in (1, inputs.shape[1]):
        return f"{found.how} is for {channels} channels, the images have {inputs.shape[1]}"
    if fits(inputs, found.norm):
        return found
    return (
        f"the model's input runs from {float(inputs.min()):.4g} to {float(inputs.max()):.4g}, outside "
        f"{found.how}"
    )


def _candidates(
    called: Sequence[Norm], made: Sequence[Norm], low: float, high: float
) -> Iterator[Normalisation]:
    """The likeliest first."""
    for norm in called:
        yield Normalisation(norm, f"{_words(norm)} ran while the client trained")
    # Before what the app merely has: it may be a layer of the model, or for other images.
    yield Normalisation(IDENTITY, f"none: the model's input runs from {low:.3g} to {high:.3g}")
    for norm in made:
        yield Normalisation(norm, f"{_words(norm)} is in the app")
    if -1 - SLACK <= low < -0.5 and 0.5 < high <= 1 + SLACK:
        yield Normalisation(
            HALVES, f"taken as 2 x - 1, since the model's input runs from {low:.3g} to {high:.3g}"
        )
    if low >= 0 and 16 < high <= 255:
        yield Normalisation(
            BYTES, f"taken as 255 x, since the model's input runs from {low:.3g} to {high:.3g}"
        )


def _for(inputs: Tensor, norm: Norm) -> bool:
    return len(norm[0]) in (1, inputs.shape[1]) and fits(inputs, norm)


def _words(norm: Norm) -> str:
    mean, std = (", ".join(f"{value:.5g}" for value in part) for part in norm)
    return f"Normalize(({mean}), ({std}))"
