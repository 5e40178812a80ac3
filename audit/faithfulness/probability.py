"""The probability that a person recognises a reconstruction, from the metrics' scores."""

import math
from collections.abc import Mapping

import torch

from fl_audit.metrics import RecognisabilityRule, Scores
from fl_audit.reports.schema import MetricFacts

NAME = "p_recognisable"

FACTS = MetricFacts(name=NAME, label="P(recognisable)", better="higher", range=(0.0, 1.0))

NOT_SCORED = f"{RecognisabilityRule.metric} was not among the metrics"


def probabilities(scores: Mapping[str, Scores]) -> Scores:
    """The probability for every image; unmeasured where the calibrated metric is."""
    rule = RecognisabilityRule()
    if rule.metric not in scores:
        count = max((len(entry.values) for entry in scores.values()), default=0)
        return Scores(torch.full((count,), math.nan, dtype=torch.float64), (NOT_SCORED,) * count)
    found = scores[rule.metric]
    if bool(found.values.isnan().all()):
        return found
    return Scores(rule.probability({rule.metric: found.values}), found.reasons)
