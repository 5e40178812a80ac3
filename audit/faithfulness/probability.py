"""The probability that a person recognises a reconstruction, from the metrics' scores."""

import math
from collections.abc import Mapping

import torch

from fl_audit.metrics import Scores
from fl_audit.reports.schema import MetricFacts

NAME = "p_recognisable"

FACTS = MetricFacts(name=NAME, label="P(recognisable)", better="higher", range=(0.0, 1.0))

NOT_CALIBRATED = "no calibration of SemSim is packaged yet"


def probabilities(scores: Mapping[str, Scores]) -> Scores:
    """The probability for every image; unmeasured where there is no calibrated metric."""
    count = max((len(entry.values) for entry in scores.values()), default=0)
    return Scores(torch.full((count,), math.nan, dtype=torch.float64), (NOT_CALIBRATED,) * count)
