"""The study's files: figures, tables, pictures, the page, and the labels that they rest on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _semsim_study.figures import ORACLE, figures
from _semsim_study.records import Done, Figures, Options
from _semsim_study.sheet import sheet
from _semsim_study.table import table
from fl_audit.core.files import write_json, write_text
from fl_audit.faithfulness import read_labels, render_study, study
from fl_audit.metrics import metrics


def write_figures(out: Path, done: Sequence[Done], options: Options, answers: Path | None) -> Figures:
    """Write everything but the settings' own files.

    Args:
        out: the study's folder.
        done: its settings.
        options: what it was made with.
        answers: file of people's answers; None for the oracle's labels.

    Raises:
        ConfigError: the answers are wrong; names the rows.
    """
    named = {pair.name for setting in done for pair in setting.pairs if pair.failure is None}
    own = {pair.name: pair.label for setting in done for pair in setting.pairs if pair.label is not None}
    if answers is None:
        given, judge, place = own, ORACLE, out / "labels.json"
        found = figures(done, options)
    else:
        people = read_labels(answers, named)
        given, judge, place = dict(people.values), people.judge, out / "labels-used.json"
        found = figures(done, options, given, judge)
        write_json(place, _labels(done, given, judge))
    write_json(out / "labels.json", _labels(done, own, ORACLE))
    write_json(out / "study.json", found.model_dump(mode="json"))
    write_text(out / "study.md", table(found))
    sheet(out / "pairs", done, {row.setting: row for row in found.table}, judge).save(out / "study.png")
    if named:
        told = len(given) > 2 and len(set(given.values())) > 1
        units = {name: kind() for name, kind in metrics if kind.default and not kind.wants}
        groups = ["model", "setting"] if told else []
        page = study(out / "pairs", out / "pairs", units, labels=place if told else None, by=groups)
        write_text(out / "study.html", render_study(page))
    return found


def _labels(done: Sequence[Done], given: Mapping[str, float], judge: str) -> dict[str, Any]:
    """A label file as ``fl-audit metrics`` reads it."""
    rows = [
        {"id": pair.name, "label": given[pair.name], "model": setting.model, "setting": setting.setting}
        for setting in done
        for pair in setting.pairs
        if pair.name in given
    ]
    return {"judge": judge, "pairs": rows}
