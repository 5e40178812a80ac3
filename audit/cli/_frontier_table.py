"""The settings of one frontier in the terminal."""

from rich import box
from rich.table import Table
from rich.text import Text

from fl_audit.cli._guarantee import guarantee
from fl_audit.cli._live import plain
from fl_audit.reports.frontier_facts import Frontier, Level
from fl_audit.reports.frontier_words import bare
from fl_audit.reports.words import interval, percent, upfirst

LEVELS: dict[Level, tuple[str, str]] = {
    "guesses": ("yes", "green"),
    "above": ("no", "bold red"),
    "unknown": ("not known", "yellow"),
}
"""Whether a setting is at the level of guesses: the word and its style."""


def frontier_table(found: Frontier, heading: str) -> Table:
    """One row for each setting."""
    table = Table(
        title=plain(heading, 200),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    runs = any(point.run for point in found.points)
    if runs:
        table.add_column("run")
    table.add_column("setting", overflow="fold")
    for name in ("leak rate (95% CI)", "accuracy", "epsilon"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("Pareto front")
    table.add_column("at the level of guesses", no_wrap=True)
    for place, point in enumerate(found.points):
        word, style = LEVELS[point.level]
        ci = f" ({interval(point.leak_rate_ci)})" if point.leak_rate_ci else ""
        chosen = ", the weakest" if place == found.weakest else ""
        row: list[Text | str] = [
            Text(plain(upfirst(bare(point)) if point.baseline else point.defense)),
            f"{percent(point.leak_rate)}{ci}",
            percent(point.accuracy),
            guarantee(point),
            "yes" if point.front else "",
            Text(f"{word}{chosen}", style=style),
        ]
        if runs:
            row.insert(0, Text(plain(point.run)))
        table.add_row(*row)
    return table
