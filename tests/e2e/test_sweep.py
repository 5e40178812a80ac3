"""A sweep beside the baseline of another run, and both compared."""

import shutil
from pathlib import Path

import pytest

from fl_audit.cli.main import _run
from fl_audit.core.errors import AuditError
from fl_audit.core.files import read_json, read_tensors, write_tensors
from fl_audit.core.progress import Progress
from fl_audit.reports.comparison import Comparison
from fl_audit.reports.schema import read_findings, read_summary
from fl_audit.run.folder import RunFolder
from fl_audit.run.pipeline import finish_run, start_run
from tests.e2e.conftest import small

SWEEP = "prune:0.2,0.99"


@pytest.fixture(scope="module")
def swept(finished: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    root = tmp_path_factory.mktemp("sweep") / "run"
    command = ["fl-audit", "run", "--baseline-from", str(finished.root)]
    folder = start_run(small(defenses=[SWEEP]), root, command, baseline_from=finished.root)
    finish_run(folder, Progress())
    return folder


def test_one_defense_for_each_value_and_the_baseline_is_not_run_again(
    finished: RunFolder, swept: RunFolder
) -> None:
    summary, source = read_summary(swept.summary), read_summary(finished.summary)
    assert list(summary.leak_rates()) == ["none", "prune:0.2", "prune:0.99"]
    assert [entry.params["fraction"] for entry in summary.defenses[1:]] == [0.2, 0.99]
    assert swept.load_config().defenses == [SWEEP]
    # The attack writes how long it took: equal times mean that it did not run again.
    timings = [
        path.relative_to(swept.root)
        for slug in ("none", "control")
        for path in (swept.reconstructions / slug).rglob("timing.json")
    ]
    assert len(timings) == 8
    for path in timings:
        assert (swept.root / path).read_bytes() == (finished.root / path).read_bytes()
    shared = {
        "none": [finding for finding in read_findings(finished.findings) if finding.defense == "none"],
        "control": [finding for finding in read_findings(finished.findings) if finding.defense == "control"],
    }
    for name, expected in shared.items():
        assert [f for f in read_findings(swept.findings) if f.defense == name] == expected
    assert summary.defenses[0].model_copy(update={"sets": []}) == source.defenses[0].model_copy(
        update={"sets": []}
    )
    assert summary.baseline_from is not None
    assert source.run_id in summary.baseline_from
    assert "taken over from run" in swept.report.read_text()


def test_the_sweep_is_a_line_of_the_frontier_and_pruning_hard_ends_the_leak(swept: RunFolder) -> None:
    frontier = read_summary(swept.summary).frontier
    assert frontier is not None
    assert [(sweep.parameter, sweep.points) for sweep in frontier.sweeps] == [("fraction", [1, 2])]
    assert frontier.points[0].level == "above"
    assert frontier.points[2].level == "guesses"
    assert frontier.weakest == 2
    assert "prune:0.99" in swept.report.read_text()


def test_the_server_saw_more_than_images(swept: RunFolder) -> None:
    none = read_summary(swept.summary).defenses[0]
    for client in none.clients:
        assert [seen.round for seen in client.seen] == [1, 2]
        for seen in client.seen:
            assert seen.num_examples == 1
            assert seen.update_norm is not None
            assert seen.labels is not None
            assert seen.labels_match is not None
            assert seen.labels_match.exact  # one image, exact by iDLG
            assert "batch_norm" in seen.unmeasured
    assert "How to stop it." in swept.report.read_text()


def test_runs_are_compared_in_one_picture(
    finished: RunFolder, swept: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(["compare", str(finished.root), str(swept.root), "--out", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "Nothing differs but the defenses" in text
    found = Comparison.model_validate(read_json(tmp_path / "out" / "compare.json"))
    points = [(point.run, point.defense) for point in found.groups[0].frontier.points]
    assert points == [("A, B", "none"), ("A", "dp"), ("B", "prune:0.2"), ("B", "prune:0.99")]
    assert (tmp_path / "out" / "compare.html").read_text().count("<svg") > 3


def test_another_configuration_is_refused_with_the_keys(finished: RunFolder, tmp_path: Path) -> None:
    arguments = ["run", "--seed", "5", "--model", "convnet", "--baseline-from", str(finished.root)]
    assert _run([*arguments, "--out", str(tmp_path / "run")]) == 2
    assert not (tmp_path / "run").exists()


def test_a_baseline_of_other_images_is_noticed(finished: RunFolder, tmp_path: Path) -> None:
    source = RunFolder(tmp_path / "source")
    shutil.copytree(finished.root, source.root)
    pool = source.truth / "pool.safetensors"
    tensors = read_tensors(pool)
    write_tensors(pool, tensors | {"images": 1 - tensors["images"]})
    folder = start_run(small(defenses=[SWEEP]), tmp_path / "run", ["fl-audit"], baseline_from=source.root)
    with pytest.raises(AuditError, match="held-out images differ"):
        finish_run(folder, Progress())
