"""What every metric shares: input checks, unscored images and their reasons."""

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from fl_audit.core.images import check_images
from fl_audit.core.registry import Unit
from fl_audit.metrics._context import Context, Scores

_SLACK = 1e-5
"""How far a reconstruction may leave [0, 1] by rounding."""

NOTHING = Context()


class Metric(Unit, ABC):
    """Compares reconstructions with originals. Authors write `_score` and the class attributes.

    Attributes:
        better: which direction means *closer to the original*, i.e. more leakage.
        range: smallest and largest value.
        per_image: one value for each image, or one for the whole set.
        needs: weights or files it needs, in words; None if nothing.
        wants: fields of `Context` that it cannot do without; see `ContextMetric`.
        uses: fields of `Context` that it looks at if they are known.
        label: how reports call it, with the unit; the name in capitals if empty.
        brief: whether short tables show it; long ones and the files show every metric.
        default: whether a run measures it without being asked: cheap, and of use beside the others.
        undefined: why the value of a single image may be NaN although all that is needed is there.
    """

    better: ClassVar[Literal["higher", "lower"]]
    range: ClassVar[tuple[float, float]]
    per_image: ClassVar[bool] = True
    needs: ClassVar[str | None] = None
    wants: ClassVar[frozenset[str]] = frozenset()
    uses: ClassVar[frozenset[str]] = frozenset()
    label: ClassVar[str] = ""
    brief: ClassVar[bool] = True
    default: ClassVar[bool] = True
    undefined: ClassVar[str] = "the metric is not defined for this image"

    def unavailable(self) -> str | None:
        """Why this metric cannot be computed on this machine and how to mend it, or None."""
        return None

    @final
    def score(self, originals: Tensor, reconstructions: Tensor, context: Context = NOTHING) -> Tensor:
        """`grade` without the reasons."""
        return self.grade(originals, reconstructions, context).values

    @final
    def grade(self, originals: Tensor, reconstructions: Tensor, context: Context = NOTHING) -> Scores:
        """Compare image with image; unmeasured is NaN with a reason, never 0.

        Args:
            originals: float32 ``(N, C, H, W)`` in [0, 1].
            reconstructions: the same shape, matched to the originals. An image that holds NaN or leaves
                [0, 1] is unscored, the others are graded.
            context: what is known besides the images. A metric that wants more of it than there is
                measures nothing, and says what is missing.

        Raises:
            ValueError: shapes, dtypes or the originals' range are wrong.
        """
        check_images(originals, "originals")
        if reconstructions.shape != originals.shape or reconstructions.dtype != torch.float32:
            raise ValueError(
                f"reconstructions: expected float32 {tuple(originals.shape)} like the originals, got "
                f"{reconstructions.dtype} {tuple(reconstructions.shape)}"
            )
        context.check(originals)
        reasons = [_unscored(image) for image in reconstructions]
        kept = torch.tensor([reason is None for reason in reasons], dtype=torch.bool)
        context = context.rows(kept)
        blocked = self.unavailable() or context.lacks(self.wants) or self._unfit_in(originals[kept], context)
        if not self.per_image:
            if blocked is None:
                value = self._checked(originals[kept], reconstructions[kept], context)
            else:
                value = torch.full((1,), math.nan, dtype=torch.float64)
            return self._with_reasons(value, [blocked])
        values = torch.full((len(originals),), math.nan, dtype=torch.float64)
        if blocked is None and bool(kept.any()):
            values[kept] = self._checked(originals[kept], reconstructions[kept], context)
        return self._with_reasons(values, [reason or blocked for reason in reasons])

    @abstractmethod
    def _score(self, originals: Tensor, reconstructions: Tensor) -> Tensor:
        """Values ``(N,)``, or ``(1,)`` for a set; every image is finite and in [0, 1], and N is not 0."""

    def _unfit(self, originals: Tensor) -> str | None:
        """Why images of this number and shape cannot be measured, or None."""
        del originals
        return None

    def _score_in(self, originals: Tensor, reconstructions: Tensor, context: Context) -> Tensor:
        del context
        return self._score(originals, reconstructions)

    def _unfit_in(self, originals: Tensor, context: Context) -> str | None:
        del context
        return self._unfit(originals)

    def _checked(self, originals: Tensor, reconstructions: Tensor, context: Context) -> Tensor:
        with torch.no_grad():
            values = self._score_in(originals, reconstructions.clamp(0, 1), context).detach().cpu().double()
        expected = (len(originals),) if self.per_image else (1,)
        if values.shape != expected:
            raise ValueError(f"metric {self.name!r} gave {tuple(values.shape)} values, expected {expected}")
        return values

    def _with_reasons(self, values: Tensor, reasons: list[str | None]) -> Scores:
        nan = values.isnan().tolist()
        return Scores(
            values,
            tuple(reason or (self.undefined if n else None) for n, reason in zip(nan, reasons, strict=True)),
        )


class ContextMetric(Metric):
    """A metric that needs more than the two images. Authors write `_score_in` and name what it `wants`."""

    @final
    def _score(self, originals: Tensor, reconstructions: Tensor) -> Tensor:
        return self._score_in(originals, reconstructions, NOTHING)

    @abstractmethod
    def _score_in(self, originals: Tensor, reconstructions: Tensor, context: Context) -> Tensor:
        """Like `Metric._score`; ``context`` has every field in `wants`, for exactly these images."""

    def _unfit_in(self, originals: Tensor, context: Context) -> str | None:
        """Why these images cannot be measured in this context, or None."""
        del context
        return self._unfit(originals)


def _unscored(image: Tensor) -> str | None:
    if not bool(torch.isfinite(image).all()):
        return "the reconstruction contains NaN or inf"
    low, high = float(image.min()), float(image.max())
    if low < -_SLACK or high > 1 + _SLACK:
        return f"the reconstruction leaves [0, 1]: it runs from {low:.3g} to {high:.3g}"
    return None
