"""Which metrics a run is graded by."""

from collections.abc import Sequence

from fl_audit.metrics import Metric, metrics

DEFAULT = "default"
"""In a list of metrics: those that are measured without being asked."""


def chosen_metrics(specs: Sequence[str] | None, rule: str | None = None) -> dict[str, Metric]:
    """The metrics to grade by, under the name that findings give them, sorted.

    Args:
        specs: names with parameters; ``default`` stands for the cheap ones, and None for nothing but them.
        rule: the metric that the verdict rests on, which is always among them.

    Raises:
        ConfigError: a name or a parameter is wrong; the message lists the valid ones.
    """
    units: dict[str, Metric] = {}
    for spec in specs if specs is not None else (DEFAULT,):
        if spec == DEFAULT:
            units |= {name: cls() for name, cls in metrics if cls.default}
        else:
            units[spec] = metrics.create(spec)
    if rule is not None:
        units.setdefault(rule, metrics.create(rule))
    return dict(sorted(units.items()))
