"""From a metric's class attributes to the declaration that reports read."""

import math

from fl_audit.metrics import Metric
from fl_audit.reports.facts import MetricFacts


def metric_facts(metric: Metric, name: str | None = None) -> MetricFacts:
    """The declaration of one metric, JSON-ready; ``name`` is how the run calls it, with its parameters."""
    low, high = metric.range
    label = metric.label or metric.name.upper()
    return MetricFacts(
        name=name or metric.name,
        label=label if name in (None, metric.name) else f"{label} ({name})",
        better=metric.better,
        range=(_finite(low), _finite(high)),
        per_image=metric.per_image,
        brief=metric.brief,
        unavailable=metric.unavailable(),
        description=metric.summary().replace("``", ""),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
