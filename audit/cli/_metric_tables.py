"""The tables of ``fl-audit metrics``."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fl_audit.cli._live import plain
from fl_audit.faithfulness.result import Faithfulness, LabelFacts, MetricsFile, Ranking
from fl_audit.reports.words import count, listing, number

PLAIN_WIDTH = 120
MAX_GROUPS = 40
LEFT = ("metric", "closer", "group")
"""Columns of words; the others hold numbers."""


def print_study(result: MetricsFile, console: Console | None = None) -> None:
    """Print scores, agreement with the labels and the ranking of groups, as far as there are any."""
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, PLAIN_WIDTH)
    console.print(_scores(result))
    for metric, reason in _unmeasured(result).items():
        _say(console, f"{metric} was not measured: {reason}")
    if result.with_itself:
        _say(
            console, "Every image was compared with itself: originals and reconstructions are the same files"
        )
    if result.left_out:
        _say(console, f"{count(len(result.left_out), 'image')} without _ori or _rec in the name left out")
    if result.labels is not None:
        console.print(_faithfulness(result.faithfulness))
        _say(console, _label_words(result.labels))
    if result.ranking is not None:
        shown = [name for name in result.ranking.spearman if name in result.agreement]
        console.print(_ranks(result.ranking, shown))
        console.print(_rankings(result.ranking, shown))
        hidden = len(result.ranking.groups) - MAX_GROUPS
        if hidden > 0:
            _say(console, f"{count(hidden, 'group')} more in the JSON file")


def print_faithfulness(entries: list[Faithfulness], console: Console | None = None) -> None:
    """Print how far metrics follow the labels."""
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, PLAIN_WIDTH)
    console.print(_faithfulness(entries))


def _scores(result: MetricsFile) -> Table:
    table = _table(
        f"Scores of {count(len(result.pairs), 'pair')}",
        ("metric", "closer", "measured", "mean", "closest", "farthest"),
    )
    for fact in result.metrics:
        scores = (pair.get(fact.name) for pair in result.pairs.values())
        found = sorted(score for score in scores if score is not None)
        single = result.sets.get(fact.name)
        if found:
            near, far = (found[-1], found[0]) if fact.better == "higher" else (found[0], found[-1])
            figures = (sum(found) / len(found), near, far)
            table.add_row(plain(fact.name), fact.better, str(len(found)), *map(number, figures))
        elif single is not None and single.value is not None:
            table.add_row(plain(fact.name), fact.better, "whole set", number(single.value), "", "")
    return table


def _unmeasured(result: MetricsFile) -> dict[str, str]:
    """Metrics that measured nothing, with the first reason."""
    found = {name: str(entry.reason) for name, entry in result.sets.items() if entry.value is None}
    for fact in result.metrics:
        if fact.per_image and all(pair[fact.name] is None for pair in result.pairs.values()):
            found[fact.name] = next(iter(result.unmeasured.values()))[fact.name]
    return found


def _faithfulness(entries: list[Faithfulness]) -> Table:
    table = _table(
        "Agreement with the labels (1 is perfect; in brackets the 95% interval)",
        ("metric", "pairs", "Spearman", "Kendall", "Pearson", "AUC"),
    )
    for entry in sorted(entries, key=lambda entry: -_or_last(entry.spearman.value)):
        if entry.pairs:
            figures = (entry.spearman, entry.kendall, entry.pearson, entry.auc)
            table.add_row(plain(entry.metric), str(entry.pairs), *map(str, figures))
    return table


def _or_last(correlation: float | None) -> float:
    return -2.0 if correlation is None else correlation


def _label_words(labels: LabelFacts) -> str:
    missing = f", {labels.unlabelled} more without a label" if labels.unlabelled else ""
    return (
        f"{count(labels.pairs, 'labelled pair')}{missing}. Judged by: {plain(labels.judge)}\n"
        "  Labels are tied: "
        f"no metric without ties can exceed a Spearman of {labels.spearman_ceiling:.2f} here."
    )


def _ranks(ranking: Ranking, shown: list[str]) -> Table:
    table = _table(
        f"Ranking by {plain(listing(ranking.by))}, 1 the most recognisable or the closest",
        ("group", "pairs", "mean label", "label", *map(plain, shown)),
    )
    for group in ranking.groups[:MAX_GROUPS]:
        ranks = (group.label_rank, *(group.ranks[name] for name in shown))
        cells = ("" if rank is None else f"{rank:g}" for rank in ranks)
        table.add_row(plain(group.group), str(group.pairs), number(group.label), *cells)
    return table


def _rankings(ranking: Ranking, shown: list[str]) -> Table:
    table = _table(
        "Agreement of the rankings with the labels",
        ("metric", "Spearman", "Kendall"),
    )
    for name in shown:
        table.add_row(plain(name), str(ranking.spearman[name]), str(ranking.kendall[name]))
    return table


def _say(console: Console, text: str) -> None:
    console.print(Text(f"  {text}", style="dim"))


def _table(heading: str, columns: tuple[str, ...]) -> Table:
    table = Table(
        title=heading, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for name in columns:
        table.add_column(Text(name), justify="left" if name in LEFT else "right", overflow="fold")
    return table
