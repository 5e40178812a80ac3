import json
from pathlib import Path

import pytest

from fl_audit.core.errors import CaptureError, ConfigError
from fl_audit.reports.comparison import Comparison, compare, compare_folders, write_comparison
from fl_audit.reports.schema import Summary, write_summary
from tests.reports import builders
from tests.reports.builders import HOSTILE
from tests.reports.test_frontier import audited
from tests.reports.test_html import Page

ONE = audited(("none", 18, 0.9), ("dp", 0, 0.5))
TWO = audited(("none", 18, 0.9), ("prune", 0, 0.7))


def folder(root: Path, name: str, summary: Summary) -> Path:
    write_summary(root / name / "summary.json", summary)
    return root / name


def test_runs_that_were_measured_alike_share_one_front_and_the_baseline() -> None:
    found = compare([("a", ONE), ("b", TWO)])
    assert found.differences == []
    (group,) = found.groups
    names = [(point.run, point.defense) for point in group.frontier.points]
    assert names == [("A, B", "none"), ("A", "dp"), ("B", "prune")]
    assert group.frontier.weakest == 2
    assert "prune (run B)" in group.frontier.conclusion
    assert "20 points below no defense" in group.frontier.conclusion


def test_what_differs_is_named_and_what_was_measured_otherwise_has_a_front_of_its_own() -> None:
    other = TWO.model_copy(
        update={
            "seed": 7,
            "model": TWO.model.model_copy(update={"name": "convnet"}),
            "threat_model": TWO.threat_model.model_copy(update={"level": "B"}),
        }
    )
    found = compare([("a", ONE), ("b", other), ("c", TWO.model_copy(update={"seed": 8}))])
    assert {entry.what: entry.matters for entry in found.differences} == {
        "model": True,
        "threat model": True,
        "seed": False,
    }
    assert [group.runs for group in found.groups] == [["A", "C"], ["B"]]
    assert found.differences[0].values[1].startswith("convnet")


def test_the_page_names_differences_first_and_escapes_what_it_read(tmp_path: Path) -> None:
    hostile = TWO.model_copy(
        update={
            "run_id": HOSTILE,
            "dataset": TWO.dataset.model_copy(update={"name": HOSTILE}),
            "defenses": [entry.model_copy(update={"name": HOSTILE + entry.name}) for entry in TWO.defenses],
        }
    )
    runs = [folder(tmp_path, "a", ONE), folder(tmp_path, "b", hostile)]
    paths = write_comparison(tmp_path / "out", compare_folders(runs))
    assert [path.name for path in paths] == ["compare.html", "compare.json"]
    page = Page(paths[0])
    assert "<script" not in page.source
    assert not page.all("img")
    assert "not all measured alike" in page.words
    assert page.words.index("What differs") < page.words.index("Leakage against accuracy")
    assert all(header.get("scope") in {"col", "row"} for header in page.all("th"))
    assert not any("style" in attributes for _, attributes in page.tags)
    again = Comparison.model_validate(json.loads(paths[1].read_text()))
    assert again == compare_folders(runs)


def test_a_bad_or_missing_summary_is_named(tmp_path: Path) -> None:
    good = folder(tmp_path, "good", ONE)
    with pytest.raises(ConfigError, match="at least two"):
        compare_folders([good])
    with pytest.raises(ConfigError, match="given twice"):
        compare_folders([good, tmp_path / "x" / ".." / "good"])
    with pytest.raises(CaptureError, match="fl-audit grade RUN"):
        compare_folders([good, tmp_path / "none"])
    bad = folder(tmp_path, "bad", builders.summary())
    whole = json.loads((bad / "summary.json").read_text())
    whole["defenses"][0]["leak_rate"] = 1e999
    (bad / "summary.json").write_text(json.dumps(whole))
    with pytest.raises(CaptureError, match=r"bad.summary\.json: defenses\.0\.leak_rate"):
        compare_folders([good, bad])


def test_too_many_settings_are_refused() -> None:
    many = ONE.model_copy(update={"defenses": ONE.defenses * 200})
    with pytest.raises(ConfigError, match="800 settings, over the limit"):
        compare([("a", many), ("b", many)])
