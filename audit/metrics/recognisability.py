"""From scores to a verdict: whether the image is recognised, from SemSim's calibrated probability."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from fl_audit.semsim import CARD, NAME, packaged

THRESHOLD = 0.6
"""Probability from which an image can count as recognisable.

Chosen for an earlier version on 1,168 real reconstructions that a vision-language model judged; SemSim is
trained on none. Of the 76 that were recognised 0.6 misses 14 (0.5: 9, 0.8: 39), of the 842 in which next to
nothing was seen it calls 4 recognised (0.5: 8, 0.8: 1). Where images resemble each other the probability is
too high, and the guesses decide.
"""
GUESS_PERCENTILE = 0.95


class RecognisabilityRule:
    """Recognisable if SemSim's calibrated probability is at least 0.6, and above what 95% of guesses reach.

    The probability is a logistic function of the distance, fitted on held-out pairs that the labels' source
    judged; both travel in the header of the weights.
    The comparison with guesses keeps data sets whose images look alike (faces, digits) from being called
    leaked: what somebody without the update would hand in is no leak.

    Args:
        guesses: SemSim distances of the negative control's guesses, ``(M,)``, NaN where unscored. Where none
            is scored, 0.6 alone decides.
    """

    name: ClassVar[str] = NAME
    metric: ClassVar[str] = "semsim"

    def __init__(self, guesses: Tensor | None = None) -> None:
        self._level = _guess_level(guesses)

    @property
    def threshold(self) -> float:
        """The least probability that counts as recognisable: 0.6, or the next above the guesses' level."""
        return max(THRESHOLD, self._level)

    @property
    def description(self) -> str:
        """What the rule says, where its labels come from, and which weights it rests on."""
        return (
            f"Recognisable means a probability of at least {THRESHOLD} that a person would recognise the "
            "original, read off the SemSim distance by a calibration on held-out labels, and above the "
            f"{GUESS_PERCENTILE:.0%} quantile of what guesses reach (negative control); here from "
            f"{self.threshold:.3f} up. The labels of the packaged weights come from a vision-"
            "language model and an oracle fitted to its answers, not from people. Weights "
            f"{self.name}, SHA-256 {packaged().sha256}; model card: {CARD} in the package."
        )

    def probability(self, scores: Mapping[str, Tensor]) -> Tensor:
        """Probability of recognition for each image.

        Args:
            scores: ``scores["semsim"]`` is float ``(N,)``, NaN where unscored.

        Returns:
            float64 ``(N,)`` in [0, 1], NaN where SemSim is.

        Raises:
            ValueError: SemSim is missing.
        """
        if self.metric not in scores:
            raise ValueError(f"{self.name} needs {self.metric}, got {', '.join(scores) or 'nothing'}")
        return packaged().calibration.probability(scores[self.metric])

    def judge(self, scores: Mapping[str, Tensor]) -> Tensor:
        """Bool ``(N,)``; False where SemSim is NaN: whoever counts leaves such an image out and says so."""
        return self.probability(scores) >= self.threshold


def _guess_level(guesses: Tensor | None) -> float:
    """The probability above 95% of guesses: the next float above that quantile; 0 without any."""
    scored = torch.empty(0) if guesses is None else guesses[~guesses.isnan()]
    if not len(scored):
        return 0.0
    reached = torch.quantile(packaged().calibration.probability(scored), GUESS_PERCENTILE)
    return float(torch.nextafter(reached, torch.tensor(torch.inf, dtype=torch.float64)))
