"""From what a model is fed back to images in [0, 1]: by the app's Normalize, by its range, or as told."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_audit.federation.apps.origin import Norm

SLACK = 1e-3
"""How far outside [0, 1] rounding may take a pixel: float16, or interpolation after normalisation."""

IDENTITY: Norm = ((0.0,), (1.0,))


@dataclass(frozen=True)
class Normalisation:
    """``input = (image - mean) / std``, and how that was found out."""

    norm: Norm
    how: str

    def undo(self, inputs: Tensor) -> Tensor:
        """Images in [0, 1] from inputs ``(N, C, H, W)``."""
        return _undo(inputs, self.norm).clamp(0, 1)


def find_normalisation(
    inputs: Tensor, called: Sequence[Norm], made: Sequence[Norm], told: tuple[float, float] | None
) -> Normalisation | str:
    """Which affine map of [0, 1] the inputs are, or why nobody knows.

    Args:
        inputs: what the model was fed, ``(N, C, H, W)``.
        called: normalisations that ran while the client trained, the latest first.
        made: those that the app has, whether or not they were seen to run (data loaders may run elsewhere).
        told: what 0 and 1 of an image are at the model's input, where the user says so.
    """
    low, high = float(inputs.min()), float(inputs.max())
    if told is not None:
        norm: Norm = ((-told[0] / (told[1] - told[0]),), (1 / (told[1] - told[0]),))
        if fits(inputs, norm):
            return Normalisation(norm, f"--input-range {told[0]:g},{told[1]:g}")
        return (
            f"the model's input runs from {low:.4g} to {high:.4g}, outside --input-range "
            f"{told[0]:g},{told[1]:g}"
        )
    for norms, how in ((called, "ran while the client trained"), (made, "is in the app")):
        for norm in norms:
            if len(norm[0]) in (1, inputs.shape[1]) and fits(inputs, norm):
                mean, std = (", ".join(f"{value:g}" for value in part) for part in norm)
                return Normalisation(norm, f"Normalize(({mean}), ({std})) {how}")
    if fits(inputs, IDENTITY):
        return Normalisation(IDENTITY, f"none: the model's input runs from {low:.3g} to {high:.3g}")
    if -1 - SLACK <= low < -0.5 and 0.5 < high <= 1 + SLACK:
        return Normalisation(
            ((0.5,), (0.5,)), f"taken as 2 x - 1, since the model's input runs from {low:.3g} to {high:.3g}"
        )
    if low >= 0 and 16 < high <= 255:
        return Normalisation(
            ((0.0,), (1 / 255,)), f"taken as 255 x, since the model's input runs from {low:.3g} to {high:.3g}"
        )
    return (
        f"the model's input runs from {low:.4g} to {high:.4g}, and no Normalize of torchvision was seen that "
        "makes this of images in [0, 1]. Say what black and white are at the model's input: "
        "--input-range LOW,HIGH"
    )


def fits(inputs: Tensor, norm: Norm) -> bool:
    """Whether ``inputs`` are images in [0, 1] under ``norm``."""
    images = _undo(inputs, norm)
    return bool(images.min() >= -SLACK) and bool(images.max() <= 1 + SLACK)


def _undo(inputs: Tensor, norm: Norm) -> Tensor:
    mean, std = (torch.tensor(part).view(1, -1, 1, 1) for part in norm)
    return inputs * std + mean
