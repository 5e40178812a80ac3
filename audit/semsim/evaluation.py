"""How far distances follow labels: rank correlation, AUC, calibration. The card's figures come from here."""

from dataclasses import dataclass

import torch
from scipy.stats import kendalltau, spearmanr
from torch import Tensor

from fl_audit.semsim.calibration import Calibration, expected_calibration_error


@dataclass(frozen=True)
class Agreement:
    """Agreement of distances with answers.

    Attributes:
        pairs: how many.
        spearman: rank correlation of the negative distance with the answers; ties share ranks.
        kendall: tau-b.
        auc: chance that a pair answered 1 is closer than one answered 0; NaN without both.
        ece: expected calibration error in 10 bins.
    """

    pairs: int
    spearman: float
    kendall: float
    auc: float
    ece: float

    def __str__(self) -> str:
        return (
            f"{self.pairs} pairs: Spearman {self.spearman:.3f}, Kendall {self.kendall:.3f}, "
            f"AUC {self.auc:.4f}, calibration error {self.ece:.3f}"
        )


def agreement(distances: Tensor, answers: Tensor, calibration: Calibration) -> Agreement:
    """Compare distances ``(N,)`` with answers ``(N,)`` in [0, 1]."""
    closeness, wanted = -distances.double().numpy(), answers.double().numpy()
    return Agreement(
        pairs=len(distances),
        spearman=float(spearmanr(closeness, wanted).statistic),
        kendall=float(kendalltau(closeness, wanted).statistic),
        auc=auc(-distances[answers == 1], -distances[answers == 0]),
        ece=expected_calibration_error(calibration.probability(distances), answers),
    )


def auc(positive: Tensor, negative: Tensor) -> float:
    """Share of (positive, negative) pairs in which the positive is higher; ties count half; NaN if empty."""
    if not len(positive) or not len(negative):
        return float("nan")
    ordered = negative.double().sort().values
    below = torch.searchsorted(ordered, positive.double(), right=False)
    up_to = torch.searchsorted(ordered, positive.double(), right=True)
    return float((below + up_to).double().mean() / 2 / len(negative))
