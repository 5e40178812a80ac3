"""The registry of metrics, apart from the units so that they can import it."""

from fl_audit.core.registry import Registry
from fl_audit.metrics._base import Metric

metrics: Registry[Metric] = Registry("metric")
