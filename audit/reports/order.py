"""What "closer" means: the one place where tables, pictures and colours learn which score leaks more.

It reads the metrics' declarations and never their names.
"""

import math
from collections.abc import Iterable, Mapping

from fl_audit.reports.finding import Finding
from fl_audit.reports.schema import GuessSummary, MetricFacts, MetricStats

Key = tuple[bool, float, float, int, int, int, str]


def closest(metric: MetricFacts, values: Iterable[float | None]) -> float | None:
    """The value that leaks most by the metric's direction; None if none was measured."""
    measured = [value for value in values if value is not None]
    if not measured:
        return None
    return max(measured) if metric.better == "higher" else min(measured)


def leak_key(finding: Finding, metric: MetricFacts | None) -> Key:
    """Sort key that puts what leaked most first: verdict, then probability, then the rule's metric."""
    score = math.inf
    value = finding.metrics.get(metric.name) if metric is not None else None
    if metric is not None and value is not None:
        score = -value if metric.better == "higher" else value
    image = -1 if finding.image is None else finding.image
    place = (finding.round, finding.client, image, finding.attack)
    return (not finding.recognisable, -(finding.p_recognisable or 0.0), score, *place)


def guess_level(metric: MetricFacts, guesses: Iterable[GuessSummary]) -> float | None:
    """What only one guess in twenty surpasses, for the better kind of guess; None if not measured."""
    quantile = "p95" if metric.better == "higher" else "p05"
    stats = (guess.metrics.get(metric.name, MetricStats(n=0)) for guess in guesses)
    return closest(metric, (stat.quantiles.get(quantile) for stat in stats))


def beyond_guess(metric: MetricFacts, value: float | None, level: float | None) -> bool | None:
    """Whether ``value`` is closer to the original than 95% of guesses; None if it cannot be said."""
    if value is None or level is None:
        return None
    return value > level if metric.better == "higher" else value < level


def by_name(metrics: Iterable[MetricFacts]) -> Mapping[str, MetricFacts]:
    """The declarations by name."""
    return {metric.name: metric for metric in metrics}
