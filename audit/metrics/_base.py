"""What every metric shares: input checks, unscored images and their reasons."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from fl_audit.core.images import check_images
from fl_audit.core.registry import Unit

_SLACK = 1e-5
"""How far a reconstruction may leave [0, 1] by rounding."""


@dataclass(frozen=True)
class Scores:
    """What a metric says.

    Attributes:
        values: float64 on the CPU, ``(N,)``, or ``(1,)`` for a metric of whole sets; NaN where unmeasured.
        reasons: for each value why it is unmeasured, or None where it is measured.
    """

    values: Tensor
    reasons: tuple[str | None, ...]


class Metric(Unit, ABC):
    """Compares reconstructions with originals. Authors write `_score` and the class attributes.

    Attributes:
        better: which direction means *closer to the original*, i.e. more leakage.
        range: smallest and largest value.
        per_image: one value for each image, or one for the whole set.
        needs: weights or files it needs, in words; None if nothing.
    """

    better: ClassVar[Literal["higher", "lower"]]
    range: ClassVar[tuple[float, float]]
    per_image: ClassVar[bool] = True
    needs: ClassVar[str | None] = None

    def unavailable(self) -> str | None:
        """Why this metric cannot be computed on this machine and how to mend it, or None."""
        return None

    @final
    def score(self, originals: Tensor, reconstructions: Tensor) -> Tensor:
        """`grade` without the reasons."""
        return self.grade(originals, reconstructions).values

    @final
    def grade(self, originals: Tensor, reconstructions: Tensor) -> Scores:
        """Compare image with image; unmeasured is NaN with a reason, never 0.

        Args:
            originals: float32 ``(N, C, H, W)`` in [0, 1].
            reconstructions: the same shape, matched to the originals. An image that holds NaN or leaves
                [0, 1] is unscored, the others are graded.

        Raises:
            ValueError: shapes, dtypes or the originals' range are wrong.
        """
        check_images(originals, "originals")
        if reconstructions.shape != originals.shape or reconstructions.dtype != torch.float32:
            raise ValueError(
                f"reconstructions: expected float32 {tuple(originals.shape)} like the originals, got "
                f"{reconstructions.dtype} {tuple(reconstructions.shape)}"
            )
        reasons = [_unscored(image) for image in reconstructions]
        kept = torch.tensor([reason is None for reason in reasons], dtype=torch.bool)
        blocked = self.unavailable() or self._unfit(originals[kept])
        if not self.per_image:
            if blocked is None:
                value = self._checked(originals[kept], reconstructions[kept])
            else:
                value = torch.full((1,), math.nan, dtype=torch.float64)
            return Scores(value, (blocked,))
        values = torch.full((len(originals),), math.nan, dtype=torch.float64)
        if blocked is not None:
            return Scores(values, tuple(reason or blocked for reason in reasons))
        if bool(kept.any()):
            values[kept] = self._checked(originals[kept], reconstructions[kept])
        return Scores(values, tuple(reasons))

    @abstractmethod
    def _score(self, originals: Tensor, reconstructions: Tensor) -> Tensor:
        """Values ``(N,)``, or ``(1,)`` for a set; every image is finite and in [0, 1], and N is not 0."""

    def _unfit(self, originals: Tensor) -> str | None:
        """Why images of this number and shape cannot be measured, or None."""
        del originals
        return None

    def _checked(self, originals: Tensor, reconstructions: Tensor) -> Tensor:
        with torch.no_grad():
            values = self._score(originals, reconstructions.clamp(0, 1)).detach().cpu().double()
        expected = (len(originals),) if self.per_image else (1,)
        if values.shape != expected:
            raise ValueError(f"metric {self.name!r} gave {tuple(values.shape)} values, expected {expected}")
        return values


def _unscored(image: Tensor) -> str | None:
    if not bool(torch.isfinite(image).all()):
        return "the reconstruction contains NaN or inf"
    low, high = float(image.min()), float(image.max())
    if low < -_SLACK or high > 1 + _SLACK:
        return f"the reconstruction leaves [0, 1]: it runs from {low:.3g} to {high:.3g}"
    return None
