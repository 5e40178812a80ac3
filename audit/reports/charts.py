"""From the summary to the charts of the pages."""

from collections.abc import Sequence

from markupsafe import Markup

from fl_audit.reports.plots import Point, Series, line_chart
from fl_audit.reports.schema import DefenseSummary, RoundLeak
from fl_audit.reports.words import count, percent, rate, title


def leak_by_round(groups: Sequence[tuple[str, Sequence[RoundLeak]]], heading: str) -> Markup:
    """Leak rate per round; each group is a line: its name and its rounds."""
    series = [Series(name, [_leak_point(entry) for entry in rounds]) for name, rounds in groups]
    return line_chart(series, title=heading, x_label="round", y_label="images recognised")


def accuracy_by_round(defenses: Sequence[DefenseSummary]) -> Markup:
    """Accuracy of the global model per round; empty if it was not measured at all."""
    series = [
        Series(
            title(defense),
            [
                Point(entry.round, entry.accuracy, f"round {entry.round}, accuracy {percent(entry.accuracy)}")
                for entry in defense.utility.rounds
            ],
        )
        for defense in defenses
    ]
    if all(point.y is None for line in series for point in line.points):
        return Markup()
    heading = "Accuracy of the global model after each round, by defense"
    return line_chart(series, title=heading, x_label="round", y_label="accuracy")


def _leak_point(entry: RoundLeak) -> Point:
    low, high = entry.leak_rate_ci or (None, None)
    tooltip = f"round {entry.round}, {rate(entry)}, {entry.recognisable} of {count(entry.graded, 'image')}"
    return Point(entry.round, entry.leak_rate, tooltip, low, high)
