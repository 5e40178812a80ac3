from pathlib import Path

import pytest

from fl_audit.cli.main import _run
from fl_audit.reports.schema import Summary, write_summary
from tests.reports import builders


def folder(root: Path, name: str, **changes: object) -> str:
    summary: Summary = builders.summary().model_copy(update=changes)
    write_summary(root / name / "summary.json", summary)
    return str(root / name)


def test_differences_come_first_then_the_table_and_the_conclusion(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(["compare", folder(tmp_path, "a"), folder(tmp_path, "b", seed=4)]) == 0
    text = capsys.readouterr().out
    order = ["A: a (abc123)", "seed differs (still comparable)", "Pareto front", "keeps leakage at the level"]
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    assert [line.split()[:2] for line in text.splitlines() if line.strip().startswith("B  ")]


def test_hostile_names_are_no_escape_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = "\x1b[31m[bold]red"
    assert _run(["compare", folder(tmp_path, "a"), folder(tmp_path, "b", run_id=run_id)]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "[bold]red" in text


def test_misuse_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = folder(tmp_path, "a")
    assert _run(["compare", good]) == 2
    assert _run(["compare", good, str(tmp_path / "missing")]) == 1
    (tmp_path / "file").write_text("")
    assert _run(["compare", good, good, "--out", str(tmp_path / "file")]) == 2
    text = capsys.readouterr().err
    assert "at least two run folders" in text
    assert "fl-audit grade RUN" in text
    assert "this is a file" in text
