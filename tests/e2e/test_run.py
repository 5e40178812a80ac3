import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fl_audit.attacks import Attack, Task
from fl_audit.cli.main import _run
from fl_audit.core.captures import list_captures, read_truth, read_update
from fl_audit.core.errors import AuditError
from fl_audit.core.progress import Progress
from fl_audit.core.types import CaptureKey, Reconstruction
from fl_audit.metrics import THRESHOLD
from fl_audit.reports.schema import read_findings, read_summary
from fl_audit.run.attack_stage import attack_captures
from fl_audit.run.folder import RunFolder
from fl_audit.run.grade_stage import grade_run
from fl_audit.semsim import packaged
from tests.e2e.conftest import audit, small


def copy_of(folder: RunFolder, to: Path) -> RunFolder:
    shutil.copytree(folder.root, to)
    return RunFolder(to)


def test_the_run_folder_holds_what_the_contract_says(finished: RunFolder) -> None:
    root = finished.root
    for name in ("config.yaml", "manifest.json", "findings.jsonl", "summary.json", "report.html"):
        assert (root / name).is_file(), name
    for defense in ("none", "dp"):
        assert [key.stem for key in list_captures(finished.captures, defense)] == [
            "r001-c00",
            "r001-c01",
            "r002-c00",
            "r002-c01",
        ]
    assert (root / "clients" / "client-01.html").is_file()
    assert not list(root.rglob("*.pkl"))
    assert not list(root.rglob("*.pt"))


def test_the_baseline_leaks_dp_does_not_and_the_control_has_power(finished: RunFolder) -> None:
    summary = read_summary(finished.summary)
    rates = summary.leak_rates()
    assert rates["none"] is not None
    # Client 1's two faces; client 0's stripes and dark patch are noise after so short an attack.
    assert rates["none"] >= 0.5
    undefended = [finding for finding in read_findings(finished.findings) if finding.defense == "none"]
    assert all(finding.recognisable for finding in undefended if finding.client == 1)
    assert rates["dp"] == 0
    assert summary.controls.positive is not None
    assert summary.controls.positive.power in ("yes", "partly")
    assert summary.controls.positive.recognisable >= 2
    for guess in summary.controls.negative.values():
        assert guess.leak_rate is not None
        assert guess.leak_rate <= 0.25
    dp = next(defense for defense in summary.defenses if defense.name == "dp")
    assert dp.epsilon is not None
    assert dp.delta == 1e-5
    assert [entry.round for entry in dp.utility.rounds] == [0, 1, 2]


def test_auto_recognises_what_so_short_an_attack_leaves_as_noise(finished: RunFolder, tmp_path: Path) -> None:
    folder = copy_of(finished, tmp_path / "run")
    config = folder.load_config()
    attack = config.attack.model_copy(update={"names": ["auto"]})
    config = config.model_copy(update={"defenses": [], "attack": attack})
    attack_captures(folder, config, Progress(), torch.device("cpu"))
    summary = grade_run(folder, config, Progress())
    rate = summary.leak_rates()["none"]
    assert rate is not None
    assert rate >= 0.75
    assert summary.controls.positive is not None
    assert summary.controls.positive.power == "yes"


def test_every_image_has_one_line_and_pictures_that_match_it(finished: RunFolder) -> None:
    findings = read_findings(finished.findings)
    calibration = packaged().calibration
    threshold = read_summary(finished.summary).recognisability.threshold
    assert threshold is not None
    assert threshold >= THRESHOLD
    assert len({(f.defense, f.round, f.client, f.image, f.attack) for f in findings}) == len(findings)
    assert {f.defense for f in findings} == {"none", "dp", "control"}
    for finding in findings:
        assert finding.status == "graded"
        distance, probability = finding.metrics["semsim"], finding.p_recognisable
        assert distance is not None
        assert probability is not None
        assert probability == pytest.approx(float(calibration.probability(torch.tensor(distance))), abs=1e-5)
        assert finding.recognisable == (probability >= threshold)
        assert finding.original is not None
        assert finding.reconstruction is not None
        key = CaptureKey(finding.defense, finding.round, finding.client)
        truth = read_truth(finished.truth, key).unique()
        pixels = torch.from_numpy(np.array(Image.open(finished.root / finding.original))).flatten()
        assert finding.image is not None
        expected = (truth.images[finding.image].flatten() * 255).round()
        assert torch.equal(pixels, expected.to(pixels.dtype))
        assert finding.original.endswith(f"{finding.image}_ori.png")


def test_the_update_captured_is_minus_the_rate_times_the_gradient(finished: RunFolder) -> None:
    from fl_audit.models import models

    key = CaptureKey("none", 1, 0)
    update, truth = read_update(finished.captures, key), read_truth(finished.truth, key)
    config = finished.load_config()
    model = models.create(config.model).build((1, 25, 25), 2)
    model.load_state_dict(dict(update.sent))
    model.train(truth.training.train_mode)
    loss = torch.nn.functional.cross_entropy(model(truth.images), truth.labels)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    for (name, _), gradient in zip(model.named_parameters(), gradients, strict=True):
        step = update.received[name] - update.sent[name]
        torch.testing.assert_close(step, -config.training.learning_rate * gradient, atol=1e-6, rtol=1e-4)


def test_the_same_seed_gives_the_same_findings(finished: RunFolder, tmp_path: Path) -> None:
    again = audit(tmp_path / "again", small())
    assert again.findings.read_bytes() == finished.findings.read_bytes()
    other = audit(tmp_path / "other", small(seed=1, defenses=[]))
    assert other.findings.read_bytes() != finished.findings.read_bytes()


WITHOUT_FLOWER = """
import sys
from collections.abc import Sequence

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("flwr", "ray"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from fl_audit.cli.main import main
main(sys.argv[1:])
"""


def test_attack_and_grade_run_where_flower_is_not_installed(finished: RunFolder, tmp_path: Path) -> None:
    """Nor the data set; and the attack runs without any ground truth: it comes back for the grading only."""
    folder = copy_of(finished, tmp_path / "run")
    shutil.rmtree(folder.reconstructions)
    folder.findings.unlink()
    shutil.move(folder.truth, tmp_path / "sealed")
    there = folder.config.read_text()
    folder.config.write_text(there.replace("dataset: faces", "dataset: not/on/this/machine.zip:photos"))
    for command in ("attack", "grade"):
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_FLOWER, command, str(folder.root)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        if command == "attack":
            shutil.move(tmp_path / "sealed", folder.truth)
    assert folder.findings.read_bytes() == finished.findings.read_bytes()


def test_no_attack_input_contains_the_truth(
    finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A canary in the truth: every tensor that any attack is handed is searched for it."""
    folder = copy_of(finished, tmp_path / "run")
    shutil.rmtree(folder.reconstructions)
    seen: list[torch.Tensor] = []

    def spy(
        self: Attack, tasks: Sequence[Task], *, device: object, progress: object, budget: object
    ) -> list[Reconstruction]:
        for task in tasks:
            seen.extend([*task.update.sent.values(), *task.update.received.values()])
            assert task.knowledge.model is not None
            seen.extend([*task.knowledge.model.state_dict().values(), *task.knowledge.model.buffers()])
            granted = [task.knowledge.labels, task.knowledge.surrogate, task.knowledge.batch_norm]
            seen.extend(value for value in granted if isinstance(value, torch.Tensor))
        return [Reconstruction("failed", reason="a spy does not attack")] * len(tasks)

    opened: list[str] = []
    watching = [True]  # an audit hook cannot be taken away again
    monkeypatch.setattr(Attack, "run_together", spy)
    sys.addaudithook(
        lambda event, values: opened.append(str(values[0])) if event == "open" and watching else None
    )
    attack_captures(folder, folder.load_config(), Progress(), torch.device("cpu"))
    watching.clear()
    assert len(seen) > 50
    assert any(str(folder.captures) in path for path in opened)
    assert not [path for path in opened if str(folder.truth) in path]
    for key in list_captures(folder.captures, "none"):
        canary = read_truth(folder.truth, key).images[0].flatten()
        for tensor in seen:
            values = tensor.detach().float().flatten()
            if len(values) >= len(canary):
                windows = values.unfold(0, len(canary), 1)
                assert not bool((windows == canary).all(1).any())


def test_a_damaged_capture_is_named_and_the_others_are_graded(finished: RunFolder, tmp_path: Path) -> None:
    folder = copy_of(finished, tmp_path / "run")
    shutil.rmtree(folder.reconstructions / "none")
    arrays = folder.captures / "none" / "r001-c00.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-10])
    (folder.captures / "none" / "r002-c01.json").write_text('{"node_id": 1}')
    attack_captures(folder, folder.load_config(), Progress(), torch.device("cpu"))
    grade_run(folder, folder.load_config(), Progress())
    findings = {(f.round, f.client): f for f in read_findings(folder.findings) if f.defense == "none"}
    assert findings[1, 0].status == "attack-failed"
    assert findings[1, 0].reason is not None
    assert "captures/none/r001-c00.safetensors" in findings[1, 0].reason
    assert str(tmp_path) not in folder.findings.read_text()
    assert findings[2, 1].reason is not None
    assert "r002-c01.json" in findings[2, 1].reason
    assert findings[1, 1].status == findings[2, 0].status == "graded"
    none = read_summary(folder.summary).defenses[0]
    assert (none.graded, sum(none.failed.values())) == (2, 2)


def test_reconstructions_without_truth_are_unscored_not_safe(finished: RunFolder, tmp_path: Path) -> None:
    folder = copy_of(finished, tmp_path / "run")
    shutil.rmtree(folder.truth / "dp")
    grade_run(folder, folder.load_config(), Progress())
    dp = [finding for finding in read_findings(folder.findings) if finding.defense == "dp"]
    assert {finding.status for finding in dp} == {"unscored"}
    assert all(finding.reason is not None and "ground truth" in finding.reason for finding in dp)
    assert read_summary(folder.summary).leak_rates()["dp"] is None


def test_the_report_is_rebuilt_from_json_and_pictures_alone(finished: RunFolder, tmp_path: Path) -> None:
    from fl_audit.reports import build_reports

    folder = copy_of(finished, tmp_path / "run")
    for part in (folder.truth, folder.captures, folder.knowledge):
        shutil.rmtree(part)
    before = folder.report.read_bytes()
    folder.report.unlink()
    build_reports(folder.root)
    assert folder.report.read_bytes() == before
    assert not re.search(r"""(src|href)=["']?https?:""", folder.report.read_text())


def test_the_manifest_says_what_ran(finished: RunFolder) -> None:
    manifest = json.loads(finished.manifest.read_text())
    assert manifest["packages"]["torch"] == torch.__version__.split("+")[0]
    assert manifest["seed"] == 0
    assert manifest["device"].startswith(("cpu", "cuda"))
    assert manifest["command"] == ["fl-audit", "run"]


def test_an_occupied_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(AuditError, match="new or empty") as caught:
        audit(tmp_path, small())
    assert caught.value.exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_exit_codes_of_a_finished_run(finished: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(finished.root)
    assert _run(["run", "--resume", root, "--fail-above", "1"]) == 0
    assert _run(["run", "--resume", root, "--fail-above", "0.1"]) == 3
    assert "--fail-above 0.1: the leak rate of none is" in capsys.readouterr().err
    assert _run(["report", root]) == 0
    assert "report.html" in capsys.readouterr().out


def test_two_processes_do_not_write_to_one_folder(
    finished: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    with finished.lock():
        assert _run(["grade", str(finished.root)]) == 2
    assert "another fl-audit process" in capsys.readouterr().err
