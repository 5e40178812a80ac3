"""Label files: both forms, several annotators, and mistakes that name their rows."""

import json
from pathlib import Path
from typing import Any

import pytest

from fl_audit.core.errors import ConfigError
from fl_audit.faithfulness import read_labels

PAIRS = ["a", "b", "c", "d"]


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def row(pair: str, label: Any, **more: Any) -> dict[str, Any]:
    return {"id": pair, "label": label, **more}


def test_the_form_of_the_judged_pairs(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    rows = [
        row("a", 1.0, arch="lenet", batch=2),
        row("b", 0.5, arch="convnet", batch=2),
        row("c", 0, arch="x"),
    ]
    path.write_text(json.dumps({"judge": "a person", "scale": {}, "pairs": rows}))
    labels = read_labels(path, PAIRS)
    assert labels.values == {"a": 1, "b": 0.5, "c": 0}
    assert (labels.judge, labels.annotators) == ("a person", 0)
    assert labels.groups(["arch"]) == {"a": "lenet", "b": "convnet", "c": "x"}
    with pytest.raises(
        ConfigError, match=r"--group batch: pair 'c' has no such field .*every pair has: arch"
    ):
        labels.groups(["arch", "batch"])
    path.write_text(json.dumps(rows))
    assert read_labels(path, PAIRS).values == labels.values
    assert read_labels(path, PAIRS).judge == "not stated in the file"


def test_lines_of_several_annotators(tmp_path: Path) -> None:
    rows = [
        {"pair": "a", "label": 1, "annotator": "x"},
        {"pair": "a", "label": 0, "annotator": "y"},
        {"pair": "a", "label": 0.5, "annotator": 3},
        {"pair": "b", "label": 1, "annotator": "x"},
        {"pair": "b", "label": 1, "annotator": "x"},
        "",
        {"pair": "c", "label": 0.25, "annotator": "x"},
    ]
    labels = read_labels(jsonl(tmp_path / "l.jsonl", *rows), PAIRS)
    assert labels.values == {"a": 0.5, "b": 1, "c": 0.25}
    assert labels.answers == {"a": 3, "b": 1, "c": 1}
    assert labels.annotators == 3


GOOD = [row("a", 1), row("b", 0), row("c", 0.5)]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([*GOOD, row("e", 1), row("f", 1)], ["line 4 ('e'), line 5 ('f')", "not among the images"]),
        ([*GOOD, row("a", 0)], ["line 1 and line 4 contradict", "'a'", "1 and 0", "annotator"]),
        (
            [*GOOD, row("d", 1, annotator="x"), row("d", 0, annotator="x")],
            ["line 4 and line 5 contradict", "by 'x'"],
        ),
        ([row("a", 1), row("b", 1), row("c", 1)], ["line 1 to line 3", "label 1", "one value only"]),
        (GOOD[:2], ["labels for 2 pairs", "at least 3"]),
        ([*GOOD, row("d", 1.5)], ["line 4: label", "less than or equal to 1", "1.5"]),
        ([*GOOD, row("d", "yes")], ["line 4: label", "yes"]),
        ([*GOOD, row("d", True)], ["line 4: label", "True"]),
        ([*GOOD, '{"id": "d", "label": NaN}'], ["line 4: label", "nan"]),
        ([*GOOD, {"label": 1}], ["line 4: id", "required"]),
        ([*GOOD, 7], ["line 4: the row", "7"]),
        ([*GOOD, "{"], ["line 4", "not JSON"]),
        ([row("a", 2)] * 14, ["line 10: label", "and 4 more"]),
    ],
)
def test_mistakes_name_the_rows(rows: list[Any], words: list[str], tmp_path: Path) -> None:
    path = jsonl(tmp_path / "labels.jsonl", *rows)
    with pytest.raises(ConfigError) as caught:
        read_labels(path, PAIRS)
    for word in ["labels.jsonl", *words]:
        assert word in str(caught.value)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--labels .*none\.json: cannot be read"):
        read_labels(tmp_path / "none.json", PAIRS)
    (tmp_path / "x.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_labels(tmp_path / "x.json", PAIRS)
    (tmp_path / "x.json").write_text('"text"')
    with pytest.raises(ConfigError, match=r"expected .*JSONL, got str"):
        read_labels(tmp_path / "x.json", PAIRS)
    (tmp_path / "x.json").write_text('{"pairs": [{"id": "a", "label": 1}, {"id": "b"}]}')
    with pytest.raises(ConfigError, match="row 2: label: Field required"):
        read_labels(tmp_path / "x.json", PAIRS)


def test_files_from_other_hands_are_read(tmp_path: Path) -> None:
    """A byte-order mark, an odd line separator inside a text, and the fields of annotations."""
    path = tmp_path / "labels.jsonl"
    rows = [
        '{"pair": "a", "answer": 1, "annotator": "x\u2028y"}',
        '{"pair": "b", "answer": 0.5, "annotator": "x\u2028y"}',
        '{"pair": "caf\u0065\u0301", "answer": 0, "annotator": "x\u2028y"}',
    ]
    path.write_text("\ufeff" + "\r\n".join(rows), encoding="utf-8")
    found = read_labels(path, ["a", "b", "caf\u00e9"])
    assert found.values == {"a": 1, "b": 0.5, "caf\u00e9": 0}
    assert found.annotators == 1
