"""The figures as Markdown tables."""

from collections.abc import Mapping, Sequence

from _semsim_study.figures import LABEL
from _semsim_study.records import Figures
from fl_audit.reports.schema import MetricFacts
from fl_audit.reports.words import number


def table(found: Figures) -> str:
    """Markdown: the settings, the agreement of each metric with the labels, who contradicts whom."""
    shown = [fact for fact in found.metrics if any(row.scores[fact.name] is not None for row in found.table)]
    lines = [
        f"Labels: {found.judge}. {found.caution}".strip(),
        "",
        f"{found.options.data_set}, {found.options.images} images in each setting, attack "
        f"`{found.options.attack}`, networks trained for {found.options.train_steps} steps before it.",
        "",
        "Mean over the images; an arrow shows which way is closer to the original.",
        "",
        *_markdown(
            ["setting", "accuracy", "label ↑", *(_heading(fact) for fact in shown)],
            [
                [
                    row.setting + (f" ({row.failed} failed)" if row.failed else ""),
                    f"{row.accuracy:.0%}",
                    number(row.label),
                    *(number(row.scores[fact.name]) for fact in shown),
                ]
                for row in found.table
            ],
        ),
        "",
    ]
    if found.ranking is None:
        return "\n".join([*lines, "No pair has a label, so nothing is compared with labels.", ""])
    opposite = {frozenset((entry.one, entry.other)): entry.share for entry in found.contradictions}
    names = [fact for fact in shown if fact.name in found.ranking.spearman]
    by_name = [fact.name for fact in names]
    images = {entry.metric: entry for entry in found.faithfulness}
    lines += [
        f"Agreement with the labels by {found.judge}; 1 is perfect, in brackets the 95% interval.",
        "",
        *_markdown(
            ["metric", "images: Spearman", "images: AUC", "settings: Spearman", "settings: Kendall"],
            [
                [
                    fact.label,
                    str(images[fact.name].spearman),
                    str(images[fact.name].auc),
                    str(found.ranking.spearman[fact.name]),
                    str(found.ranking.kendall[fact.name]),
                ]
                for fact in names
            ],
        ),
        "",
        "Share of the pairs of settings that two metrics, or a metric and the labels, put in opposite order.",
        "",
        *_markdown(
            ["", LABEL, *(fact.label for fact in names)],
            [
                [fact.label, *(_share(opposite, fact.name, other) for other in [LABEL, *by_name])]
                for fact in names
            ],
        ),
        "",
    ]
    return "\n".join(lines)


def _share(opposite: Mapping[frozenset[str], float | None], one: str, other: str) -> str:
    share = None if one == other else opposite[frozenset((one, other))]
    return "" if share is None else f"{share:.0%}"


def _heading(fact: MetricFacts) -> str:
    return f"{fact.label} {'↑' if fact.better == 'higher' else '↓'}"


def _markdown(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (heading, ["---"] * len(heading), *rows)]
