"""From the finished settings to figures: the table, the rankings, who contradicts whom."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from _semsim_study.grading import facts
from _semsim_study.records import Contradiction, Done, Figures, Options, Row
from fl_audit.faithfulness import Column, agreement, faithfulness, ranking
from fl_audit.faithfulness.compare import FEWEST
from fl_audit.faithfulness.result import Ranking

ORACLE = "the recognisability oracle (not people)"
ORACLE_CAUTION = (
    "SemSim was trained on labels of this oracle, and SSIM is among what it judges by: both are favoured "
    "here. How far the metrics contradict one another does not depend on any label."
)
LABEL = "label"


def figures(
    done: Sequence[Done], options: Options, answers: Mapping[str, float] | None = None, judge: str = ORACLE
) -> Figures:
    """Figures over the settings that are finished.

    Args:
        done: one setting at least.
        options: of the study.
        answers: people's answers by pair, in place of the oracle's labels.
        judge: who gave them.
    """
    pairs = [(setting, pair) for setting in done for pair in setting.pairs]
    rows = [_row(setting, answers) for setting in done]
    given = {name: label for row in rows for name, label in row.labels.items()}
    truth = np.array([given.get(pair.name, np.nan) for _, pair in pairs])
    clusters = np.array([pair.row for _, pair in pairs], dtype=np.int64)
    known = [fact for fact in facts() if fact.per_image]
    columns = [
        Column(
            fact.name,
            np.array([np.nan if (x := pair.scores[fact.name]) is None else x for _, pair in pairs]),
            1 if fact.better == "higher" else -1,
        )
        for fact in known
    ]
    columns = [column for column in columns if np.isfinite(column.values).any()]
    groups = [setting.name for setting, _ in pairs]
    ranked = ranking(columns, truth, groups, clusters, ["setting"]) if np.isfinite(truth).any() else None
    return Figures(
        judge=judge,
        caution=ORACLE_CAUTION if answers is None else "",
        options=options,
        metrics=facts(),
        table=rows,
        ranking=ranked,
        faithfulness=[faithfulness(column, truth, clusters) for column in columns],
        agreement=agreement(columns),
        contradictions=contradictions(ranked) if ranked else [],
        settings=list(done),
    )


def contradictions(ranked: Ranking) -> list[Contradiction]:
    """For every two metrics, and the labels, the share of the pairs of settings in opposite order."""
    places: dict[str, list[float | None]] = {LABEL: [group.label_rank for group in ranked.groups]}
    for name in ranked.spearman:
        places[name] = [group.ranks[name] for group in ranked.groups]
    return [
        Contradiction(one=one, other=other, share=_opposite(places[one], places[other]))
        for one, other in itertools.combinations(places, 2)
    ]


def _opposite(one: Sequence[float | None], other: Sequence[float | None]) -> float | None:
    rows = [(x, y) for x, y in zip(one, other, strict=True) if x is not None and y is not None]
    if len(rows) < FEWEST or any(len(set(side)) == 1 for side in zip(*rows, strict=True)):
        return None
    turns = [(a[0] - b[0]) * (a[1] - b[1]) for a, b in itertools.combinations(rows, 2)]
    return sum(turn < 0 for turn in turns) / len(turns)


def _row(setting: Done, answers: Mapping[str, float] | None) -> Row:
    names = setting.pairs[0].scores
    means = {name: _mean([pair.scores[name] for pair in setting.pairs]) for name in names}
    given = {pair.name: pair.label if answers is None else answers.get(pair.name) for pair in setting.pairs}
    labels = {name: label for name, label in given.items() if label is not None}
    return Row(
        setting=setting.name,
        pairs=len(setting.pairs),
        failed=sum(pair.failure is not None for pair in setting.pairs),
        accuracy=setting.accuracy,
        label=_mean(list(labels.values())),
        labels=labels,
        scores=means | {name: found.value for name, found in setting.sets.items()},
    )


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None
