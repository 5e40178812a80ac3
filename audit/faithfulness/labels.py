"""Judgements of recognisability by people or a stand-in: one number in [0, 1] for each pair.

Two forms are read. JSON: ``{"judge": "who", "pairs": [{"id": "X", "label": 0.5, ...}, ...]}`` or the bare
list of pairs. JSONL: one such object a line. ``pair`` may stand for ``id`` and ``answer`` for ``label``, as
in the annotations that SemSim is trained on; ``annotator`` tells several people's answers on one pair apart,
whose mean is the label; any further field can serve as a group.
"""

import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from fl_audit.core.errors import ConfigError
from fl_audit.faithfulness.folders import normal

MAX_BYTES = 256 * 2**20
SHOWN = 10
"""Rows that one error message names."""

UNKNOWN_JUDGE = "not stated in the file"


class _Row(BaseModel):
    """One answer; further fields are kept for grouping."""

    model_config = ConfigDict(extra="allow", frozen=True, coerce_numbers_to_str=True)

    pair: Annotated[str, AfterValidator(normal)] = Field(
        validation_alias=AliasChoices("id", "pair"), min_length=1
    )
    label: Annotated[float, Field(strict=True, ge=0, le=1)] = Field(
        validation_alias=AliasChoices("label", "answer")
    )
    annotator: str | None = None


@dataclass(frozen=True)
class Labels:
    """Labels by pair.

    Attributes:
        judge: who gave them, in words.
        values: mean answer by pair, in [0, 1]; 1 is recognisable.
        answers: answers by pair.
        annotators: names that the file tells apart; 0 if none.
        fields: further fields by pair, as text; of several rows the first.
    """

    judge: str
    values: Mapping[str, float]
    answers: Mapping[str, int]
    annotators: int
    fields: Mapping[str, Mapping[str, str]]

    def groups(self, names: Collection[str]) -> dict[str, str]:
        """The group of each pair: its values of the fields ``names``, joined.

        Raises:
            ConfigError: a pair lacks a field; lists the fields that all have.
        """
        found = {}
        for pair, fields in self.fields.items():
            lacking = [name for name in names if name not in fields]
            if lacking:
                shared = set.intersection(*(set(entry) for entry in self.fields.values()))
                raise ConfigError(
                    f"--group {lacking[0]}: pair {pair!r} has no such field in the labels. Fields that every "
                    f"pair has: {', '.join(sorted(shared)) or 'none'}"
                )
            found[pair] = " / ".join(fields[name] for name in names)
        return found


def read_labels(path: Path, pairs: Collection[str]) -> Labels:
    """Read labels for ``pairs``; pairs without a label are fine.

    Raises:
        ConfigError: the file is missing or of another form, a row names a pair that is not there, one
            annotator contradicts themself, or all labels are equal; names the rows.
    """
    rows, judge = _rows(path)
    _refuse(
        path,
        "names a pair that is not among the images",
        {w: r for w, r in rows.items() if r.pair not in pairs},
    )
    seen: dict[tuple[str, str | None], str] = {}
    kept: dict[str, _Row] = {}
    for where, row in rows.items():
        first = seen.setdefault((row.pair, row.annotator), where)
        if first == where:
            kept[where] = row
        elif rows[first].label != row.label:
            who = f" by {row.annotator!r}" if row.annotator else ""
            raise ConfigError(
                f"{path}: {first} and {where} contradict each other: {row.pair!r} is labelled "
                f"{rows[first].label:g} and {row.label:g}{who}. Keep one, or tell annotators apart with "
                "the field 'annotator'"
            )
    answers: dict[str, list[float]] = {}
    fields: dict[str, dict[str, str]] = {}
    for row in kept.values():
        answers.setdefault(row.pair, []).append(row.label)
        fields.setdefault(row.pair, {name: str(value) for name, value in (row.model_extra or {}).items()})
    values = {pair: sum(given) / len(given) for pair, given in answers.items()}
    _check_spread(path, values, kept)
    names = {row.annotator for row in kept.values() if row.annotator is not None}
    return Labels(judge, values, dict(Counter(row.pair for row in kept.values())), len(names), fields)


def _check_spread(path: Path, values: Mapping[str, float], rows: Mapping[str, _Row]) -> None:
    if len(values) < 3:
        raise ConfigError(
            f"{path}: labels for {len(values)} pairs; at least 3 are needed to compare with metrics"
        )
    if len(set(values.values())) == 1:
        first, *_, last = rows
        raise ConfigError(
            f"{path}: every row ({first} to {last}) has the label {next(iter(values.values())):g}: with one "
            "value only, nothing can be compared"
        )


def _rows(path: Path) -> tuple[dict[str, _Row], str]:
    """Rows by where they stand, and who judged."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path}: over the limit of {MAX_BYTES} bytes; are these labels?")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"--labels {path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    judge = UNKNOWN_JUDGE
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        items = _lines(path, text)
    else:
        if isinstance(whole, dict) and "pairs" in whole:
            judge = str(whole.get("judge", judge))
            whole = whole["pairs"]
        elif isinstance(whole, dict):
            whole = [whole]  # one line of JSONL
        if not isinstance(whole, list):
            raise ConfigError(
                f'{path}: expected {{"pairs": [...]}}, a list or JSONL, got {type(whole).__name__}'
            )
        items = {f"row {number}": item for number, item in enumerate(whole, start=1)}
    return _validated(path, items), judge


def _lines(path: Path, text: str) -> dict[str, Any]:
    items = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                items[f"line {number}"] = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ConfigError(f"{path}, line {number}: not JSON ({error})") from None
    return items


def _validated(path: Path, items: Mapping[str, Any]) -> dict[str, _Row]:
    rows: dict[str, _Row] = {}
    mistakes = []
    for where, item in items.items():
        try:
            rows[where] = _Row.model_validate(item)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"]) or "the row"
            mistakes.append(f"{where}: {field}: {first['msg']}, got {first['input']!r:.80}")
    if mistakes:
        raise ConfigError(
            f"{path}: {'; '.join(mistakes[:SHOWN])}{_more(mistakes)}. Expected "
            '{"id": "X", "label": 0.5} with a label from 0 to 1'
        )
    return rows


def _refuse(path: Path, what: str, rows: Mapping[str, _Row]) -> None:
    if rows:
        named = [f"{where} ({row.pair!r})" for where, row in rows.items()]
        raise ConfigError(f"{path}: {', '.join(named[:SHOWN])}{_more(named)}: {what}")


def _more(names: list[str]) -> str:
    return f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
