"""From a metric's class attributes to the declaration that reports read."""

import math

from fl_audit.metrics import Metric
from fl_audit.reports.facts import MetricFacts


def metric_facts(metric: Metric) -> MetricFacts:
    """The declaration of one metric, JSON-ready."""
    low, high = metric.range
    return MetricFacts(
        name=metric.name,
        label=metric.label or metric.name.upper(),
        better=metric.better,
        range=(_finite(low), _finite(high)),
        per_image=metric.per_image,
        unavailable=metric.unavailable(),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
