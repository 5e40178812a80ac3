import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from fl_audit.core.errors import CaptureError
from fl_audit.reports.schema import (
    ClientFacts,
    Finding,
    MetricStats,
    read_findings,
    read_summary,
    write_findings,
    write_summary,
)
from tests.reports import builders


def test_findings_and_summary_survive_a_round_trip(tmp_path: Path) -> None:
    write_findings(tmp_path / "findings.jsonl", builders.findings())
    write_summary(tmp_path / "summary.json", builders.summary())
    assert read_findings(tmp_path / "findings.jsonl") == builders.findings()
    assert read_summary(tmp_path / "summary.json") == builders.summary()


def test_files_are_strict_json_without_nan(tmp_path: Path) -> None:
    write_findings(tmp_path / "findings.jsonl", builders.findings())
    write_summary(tmp_path / "summary.json", builders.summary())

    def refuse(name: str) -> None:
        raise AssertionError(name)

    for line in (tmp_path / "findings.jsonl").read_text().splitlines():
        entry = json.loads(line, parse_constant=refuse)
        assert entry["metrics"]["lpips"] is None
        assert entry["unmeasured"]["lpips"]
    whole = json.loads((tmp_path / "summary.json").read_text(), parse_constant=refuse)
    assert whole["schema_version"] == 1
    prune = whole["defenses"][2]
    assert prune["clients"][0]["in_clear"]["train-loss"] == "nan"


def test_the_summary_has_the_fields_of_the_contract() -> None:
    whole = builders.summary().model_dump(mode="json")
    top = {"schema_version", "run_id", "scenario", "threat_model", "dataset", "model", "controls", "defenses"}
    assert top <= whole.keys()
    assert {"negative", "positive"} == whole["controls"].keys()
    counted = {"leak_rate", "leak_rate_ci", "metrics", "images", "recognisable"}
    names = {"name", "params", "epsilon", "delta", "utility", "rounds", "clients"}
    assert names | counted <= whole["defenses"][0].keys()
    assert {"client", "worst"} | counted <= whole["defenses"][0]["clients"][0].keys()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"recognisable": None}, "graded finding has"),
        ({"reason": "because"}, "graded finding has"),
        ({"image": None}, "graded finding has"),
        ({"status": "unscored"}, "has a reason and no verdict"),
        ({"metrics": {"mse": None}, "unmeasured": {}}, "unmeasured without a reason: mse"),
        ({"metrics": {"mse": float("nan")}}, "finite number"),
        ({"original": "/etc/passwd"}, "inside the run folder"),
        ({"original": "a/../../b.png"}, "inside the run folder"),
        ({"reconstruction": "https://evil.example/x.png"}, "inside the run folder"),
        ({"round": 0}, "greater than or equal to 1"),
        ({"surprise": 1}, "Extra inputs"),
    ],
)
def test_a_finding_that_contradicts_itself_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Finding.model_validate(builders.finding().model_dump() | changes)


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "findings.jsonl"
    write_findings(path, builders.findings())
    lines = path.read_text().splitlines()
    lines[2] = lines[2][:-9]
    path.write_text("\n".join(lines))
    with pytest.raises(CaptureError, match=r"findings\.jsonl, line 3"):
        read_findings(path)


def test_a_missing_or_foreign_summary_is_named(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    with pytest.raises(CaptureError, match="fl-audit grade RUN"):
        read_summary(path)
    write_summary(path, builders.summary())
    whole = json.loads(path.read_text())
    whole["defenses"][0]["leak_rate"] = "high"
    path.write_text(json.dumps(whole))
    with pytest.raises(CaptureError, match=r"summary\.json: defenses\.0\.leak_rate"):
        read_summary(path)


def test_leak_rates_leave_the_control_out() -> None:
    assert builders.summary().leak_rates() == {"none": 0.75, "dp": 0.0, "prune:0.9": 0.0}


def test_nothing_measured_is_null_and_not_zero() -> None:
    stats = MetricStats(n=0)
    assert (stats.mean, stats.worst, stats.quantiles) == (None, None, {})
    assert ClientFacts(client=0, in_clear={"a": float("inf")}).in_clear == {"a": "inf"}
