"""From a distance to the probability that the image is recognised, by a logistic curve; calibration error."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

BINS = 10


@dataclass(frozen=True)
class Calibration:
    """``p = 1 / (1 + exp(slope * d - intercept))``, falling in the distance (Platt 1999).

    Attributes:
        intercept: log-odds at distance 0.
        slope: log-odds lost per unit of distance, above 0.
    """

    intercept: float
    slope: float

    def probability(self, distances: Tensor) -> Tensor:
        """Probability in [0, 1] for each distance; NaN where the distance is NaN."""
        return torch.sigmoid(self.intercept - self.slope * distances.double())


def fit(distances: Tensor, answers: Tensor) -> Calibration:
    """The logistic curve of greatest likelihood.

    Args:
        distances: ``(N,)``, finite.
        answers: 0, 0.5 or 1 (or the mean of several annotators), ``(N,)``.

    Raises:
        ValueError: there are not both recognised and unrecognised pairs.
    """
    d, y = distances.double().numpy(), answers.double().numpy()
    if not (y > 0.5).any() or not (y < 0.5).any():
        raise ValueError("a calibration needs answers over and under 0.5")
    middle, width = float(np.median(d)), float(d.std()) or 1.0
    z = (d - middle) / width

    def cost(at: np.ndarray) -> float:
        odds = at[0] - np.exp(at[1]) * z
        # log(1 + e^o) - y o, the cross entropy; the last term keeps separable answers from a step function.
        return float((np.logaddexp(0, odds) - y * odds).mean() + 1e-4 * (at**2).sum())

    best = minimize(cost, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-10})
    slope = float(np.exp(best.x[1])) / width
    return Calibration(float(best.x[0]) + slope * middle, slope)


def expected_calibration_error(probabilities: Tensor, answers: Tensor, bins: int = BINS) -> float:
    """Mean gap between probability and share of yes, over bins of equal width, weighted by their size.

    Naeini, Cooper and Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI
    2015.
    """
    p, y = probabilities.double(), answers.double()
    place = (p * bins).long().clamp(max=bins - 1)
    gaps = [
        (place == number).double().mean() * (p[place == number].mean() - y[place == number].mean()).abs()
        for number in range(bins)
        if bool((place == number).any())
    ]
    return float(torch.stack(gaps).sum()) if gaps else float("nan")
