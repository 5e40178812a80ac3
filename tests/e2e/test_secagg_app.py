"""``fl-audit app`` on an app that runs Flower's SecAgg+: the aggregate is attacked, and is called that."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits

from fl_audit.cli.main import _run
from fl_audit.core.captures import list_captures, read_truth, read_update
from fl_audit.core.progress import Progress
from fl_audit.core.types import EVERYONE, CaptureKey
from fl_audit.reports.schema import read_findings, read_summary
from fl_audit.run.folder import RunFolder
from fl_audit.run.grade_stage import grade_run
from fl_audit.run.grants import read_knowledge
from fl_audit.run.jobs import jobs
from fl_audit.run.lines import NO_PARTNER
from fl_audit.run.results import read_reconstruction, write_reconstruction

APP = Path(__file__).resolve().parents[1] / "apps" / "secagg"
CLIENTS = 3
OPTIONS = ["--clients", str(CLIENTS), "--run-config", "num-server-rounds=1"]


def small_app(root: Path) -> Path:
    """The app with 3 images a client."""
    app = root / "app"
    shutil.copytree(APP, app)
    task = app / "secaggexample" / "task.py"
    text = task.read_text()
    assert "[partition_id::num_partitions]" in text
    task.write_text(text.replace("[partition_id::num_partitions]", "[partition_id:12:num_partitions]"))
    return app


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    root = tmp_path_factory.mktemp("secagg")
    options = [*OPTIONS, "--attack", "auto:iterations=20,further=0", "--attack-clients", "2", "--seed", "3"]
    assert _run(["app", str(small_app(root)), "--out", str(root / "run"), *options]) == 0
    return RunFolder(root / "run")


def test_a_round_is_one_capture_and_all_its_clients_images_are_known(audited: RunFolder) -> None:
    (key,) = list_captures(audited.captures, "none")
    assert (key.client, key.stem) == (EVERYONE, "r001-all")
    update = read_update(audited.captures, key)
    assert update.problem() is None
    assert [(part.client, round(part.weight, 6)) for part in update.cohort] == [
        (client, round(1 / 3, 6)) for client in range(CLIENTS)
    ]
    digits = torch.tensor(load_digits().images, dtype=torch.float32) / 16
    for client in range(CLIENTS):
        truth = read_truth(audited.truth, CaptureKey("none", 1, client))
        assert truth.images.shape == (3, 1, 8, 8)
        for image in truth.images[:, 0]:
            assert float((digits - image).abs().flatten(1).amax(1).min()) < 1e-6
    knowledge = read_knowledge(audited.knowledge_file(key), key)
    assert [share.num_examples for share in knowledge.cohort] == [3] * CLIENTS
    assert knowledge.labels is not None
    assert len(knowledge.labels) == 9


def test_what_is_found_is_said_to_be_found_in_an_aggregate(audited: RunFolder) -> None:
    lines = [line for line in read_findings(audited.findings) if line.defense == "none"]
    assert [(line.client, line.image, line.status) for line in lines] == [
        (client, image, "graded") for client in range(2) for image in range(3)
    ]
    assert {line.aggregate_of for line in lines} == {CLIENTS}
    control = [line for line in read_findings(audited.findings) if line.defense == "control"]
    assert {line.aggregate_of for line in control} == {None}
    (defense,) = read_summary(audited.summary).defenses
    assert defense.aggregate_of == [CLIENTS]
    assert all(client.aggregate_of == [CLIENTS] for client in defense.clients if client.images)
    for page in (audited.report, audited.root / "clients" / "client-01.html"):
        assert "in the aggregate of 3 clients" in " ".join(page.read_text().split())
    scene = json.loads(audited.scene.read_text())["app"]["words"]
    assert "single updates reach the server masked" in scene
    assert "Round 1: the aggregate is the sum that the server takes the masks off" in scene


def test_images_that_nobody_tried_are_counted_apart(audited: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(audited.root, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    config = folder.load_config()
    (job,) = [job for job in jobs(folder, config) if job.key.client == EVERYONE]
    whole = read_reconstruction(job.folder)
    assert whole.images is not None
    for unattempted, status in (("more than can be told apart", "not-attempted"), (None, "attack-failed")):
        part = replace(whole, images=whole.images[:2], labels=None, unattempted=unattempted)
        write_reconstruction(job.folder, part)
        summary = grade_run(folder, config, Progress())
        lines = [line for line in read_findings(folder.findings) if line.defense == "none"]
        lost = [line for line in lines if line.status != "graded"]
        assert {line.status for line in lost} == {status}
        assert {line.reason for line in lost} == {unattempted or NO_PARTNER}
        assert summary.defenses[0].failed == {status: len(lost)}
        assert len(lost) >= 4


def test_a_defense_that_would_act_on_what_is_masked_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*OPTIONS, "--defense", "noise:0.1", "--no-baseline", "--out", str(tmp_path / "run")]
    assert _run(["app", str(small_app(tmp_path)), *options]) == 1
    assert "the app masks the update (SecAgg+)" in " ".join(capsys.readouterr().err.split())
