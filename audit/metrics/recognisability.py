"""From scores to a verdict: whether a person would recognise the image. An interim rule, and named so."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

SSIM_THRESHOLD = 0.5
GUESS_PERCENTILE = 0.95


class InterimRule:
    """Recognisable if SSIM is at least 0.5 and above what 95% of guesses reach.

    No threshold on SSIM is what people see: 0.5 is a round number in the middle of its useful range, chosen
    without tuning on any judgement, and SSIM misses images that were flipped, shifted or recoloured. The
    comparison with guesses keeps data sets whose images look alike from being called leaked. A calibrated
    SemSim replaces this rule.
    """

    name: ClassVar[str] = "interim-ssim"
    description: ClassVar[str] = (
        f"Interim rule, not calibrated on people: recognisable means SSIM of at least {SSIM_THRESHOLD} and "
        f"above the {GUESS_PERCENTILE:.0%} quantile of the SSIM that guesses reach (negative control). It "
        "misses images that a person recognises although they are flipped, shifted or recoloured."
    )

    def judge(self, scores: Mapping[str, Tensor], negative_ssim: Tensor) -> Tensor:
        """Judge each image.

        Args:
            scores: ``scores["ssim"]`` is float ``(N,)``, NaN where unscored.
            negative_ssim: SSIM of the guesses, ``(M,)``; NaN where unscored, at least one is not.

        Returns:
            bool ``(N,)``. False where SSIM is NaN: whoever counts must leave such an image out and say so.

        Raises:
            ValueError: SSIM is missing, or no guess was scored.
        """
        if "ssim" not in scores:
            raise ValueError(f"{self.name} needs ssim, got {', '.join(scores) or 'nothing'}")
        return scores["ssim"] >= max(SSIM_THRESHOLD, self.guess_level(negative_ssim))

    def guess_level(self, negative_ssim: Tensor) -> float:
        """The SSIM above which an image is closer than 95% of guesses (next float above the quantile)."""
        scored = negative_ssim.double()[~negative_ssim.isnan()]
        if not len(scored):
            raise ValueError("no guess of the negative control was scored: nothing to judge against")
        level = torch.quantile(scored, GUESS_PERCENTILE)
        return float(torch.nextafter(level, torch.tensor(torch.inf, dtype=torch.float64)))
