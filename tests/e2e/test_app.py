"""``fl-audit app``: apps as people write them, run from the command line, unmodified."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fl_audit.cli.main import _run
from fl_audit.core.captures import list_captures, read_truth, read_update
from fl_audit.core.types import CaptureKey
from fl_audit.models.app_model import Recipe
from fl_audit.run.folder import RunFolder
from tests.e2e.apps import PLAIN_CLIENT, SERVER, TASK, listing, write_app

ATTACK = ["--attack", "auto:iterations=20,further=0"]


def audit(app: Path, out: Path, *options: str, code: int = 0) -> RunFolder:
    assert _run(["app", str(app), "--out", str(out), "--seed", "3", *ATTACK, *options]) == code
    return RunFolder(out)


def findings(folder: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in folder.findings.read_text().splitlines()]


def the_truth_is_what_the_client_held(folder: RunFolder, client: int) -> None:
    """Independent of the app: the digits that its partition holds, in [0, 1]."""
    from sklearn.datasets import load_digits

    digits = torch.tensor(load_digits().images, dtype=torch.float32)[client:40:2] / 16
    seen = read_truth(folder.truth, CaptureKey("none", 1, client)).images
    assert seen.shape == (1, 1, 8, 8)
    assert min(float((seen[0, 0] - digit).abs().max()) for digit in digits) < 1e-6


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """An audited app that leaks; tests only look at it."""
    root = tmp_path_factory.mktemp("tiny")
    return audit(write_app(root), root / "run", "--defense", "noise:0.5")


def test_a_leaking_app_is_shown_to_leak_and_what_was_learned_of_it_is_right(tiny: RunFolder) -> None:
    the_truth_is_what_the_client_held(tiny, 0)
    the_truth_is_what_the_client_held(tiny, 1)
    recipe = Recipe.model_validate_json((tiny.root / "model.json").read_text())
    assert (recipe.target, recipe.args, recipe.kwargs) == ("tiny.task:get_model", [32], {})
    assert (recipe.mean, recipe.std) == ([0.5], [0.5])
    config = tiny.load_config()
    assert (config.training.learning_rate, config.training.batch_size, config.federation.rounds) == (
        0.1,
        1,
        1,
    )
    scene = json.loads(tiny.scene.read_text())
    assert (scene["dataset"]["shape"], len(scene["dataset"]["classes"])) == ([1, 8, 8], 10)
    assert scene["model"]["parameters"] == 64 * 32 + 32 + 32 * 10 + 10
    undefended = [line for line in findings(tiny) if line["defense"] == "none"]
    assert len(undefended) == 2
    assert all(line["metrics"]["mse"] < 1e-6 for line in undefended)
    control = [line for line in findings(tiny) if line["defense"] == "control"]
    assert all(line["metrics"]["mse"] < 1e-6 for line in control)


def test_a_defense_is_put_around_any_app(tiny: RunFolder) -> None:
    clean = read_update(tiny.captures, CaptureKey("none", 1, 0))
    noisy = read_update(tiny.captures, CaptureKey("noise-0.5", 1, 0))
    assert all(torch.equal(clean.sent[name], noisy.sent[name]) for name in clean.sent)
    added = torch.cat([(noisy.received[n] - clean.received[n]).flatten() for n in clean.received])
    assert added.std() > 0.1
    defended = [line for line in findings(tiny) if line["defense"] == "noise:0.5"]
    assert all(line["metrics"]["mse"] > 1e-3 for line in defended)


@pytest.mark.parametrize(
    ("defense", "where"),
    [("dp-sgd", "inside local training"), ("secagg", "at the server"), ("clip:1+secagg", "at the server")],
)
def test_a_defense_that_needs_more_than_the_update_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], defense: str, where: str
) -> None:
    app = write_app(tmp_path)
    assert _run(["app", str(app), "--defense", defense, "--out", str(tmp_path / "run")]) == 2
    assert where in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_every_stage_runs_alone_on_the_run_folder_of_an_app(tiny: RunFolder, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(tiny.root, copy)
    before = (copy / "findings.jsonl").read_bytes()
    shutil.rmtree(copy / "reconstructions")
    (copy / "findings.jsonl").unlink()
    shutil.move(copy / "truth", tmp_path / "truth")  # an attack has no need of it
    assert _run(["attack", str(copy)]) == 0
    shutil.move(tmp_path / "truth", copy / "truth")
    assert _run(["grade", str(copy)]) == 0
    assert (copy / "findings.jsonl").read_bytes() == before
    assert "tiny.task:get_model(32)" in (copy / "report.html").read_text()


def test_an_app_that_writes_seeds_and_starts_threads_touches_nothing_of_the_users(tmp_path: Path) -> None:
    app = write_app(
        tmp_path,
        package="messy",
        before="import random, threading, time; random.seed(1); torch.manual_seed(1); "
        "open('scratch.txt', 'w').write('x'); threading.Thread(target=time.sleep, args=(600,)).start()",
    )
    before = listing(app)
    folder = audit(app, tmp_path / "run", "--run-config", "num-server-rounds=2 batch=2")
    assert listing(app) == before
    assert [key.round for key in list_captures(folder.captures, "none")] == [1, 1, 2, 2]
    first, second = (read_truth(folder.truth, CaptureKey("none", n, 0)) for n in (1, 2))
    assert len(first.images) == len(second.images) == 2


def test_what_cannot_be_found_is_asked_for_and_then_used(tmp_path: Path) -> None:
    """The model comes from a lambda and a tensor; images run from -3 to 4."""
    task = TASK.replace("normalize(images[rows])", "images[rows] * 7 - 3").replace(
        "def get_model(hidden: int):\n    return Net(hidden)",
        "get_model = lambda hidden: Net(torch.tensor(hidden))\n\n\ndef for_the_audit():\n    return Net(32)",
    )
    app = write_app(tmp_path, package="odd", task=task)
    folder = audit(app, tmp_path / "run", "--input-range=-3,4")
    assert all("--model module:function" in line["reason"] for line in findings(folder))
    the_truth_is_what_the_client_held(folder, 0)
    folder = audit(app, tmp_path / "all", "--input-range=-3,4", "--model", "odd.task:for_the_audit")
    undefended = [line for line in findings(folder) if line["defense"] == "none"]
    assert len(undefended) == 2
    assert all(line["metrics"]["mse"] < 1e-6 for line in undefended)


def test_an_app_that_never_calls_torch_is_reported_and_not_attacked(tmp_path: Path) -> None:
    server = SERVER.replace("from {package}.task import get_model\n", "import numpy as np\n").replace(
        "ArrayRecord(get_model(32).state_dict())", "ArrayRecord([np.zeros((10, 64)), np.zeros(10)])"
    )
    app = write_app(tmp_path, package="plain", server=server, client=PLAIN_CLIENT)
    folder = audit(app, tmp_path / "run", "--rounds", "2", "-c", "lr=0.25", "--clients", "3")
    config = folder.load_config()
    assert (config.federation.rounds, config.federation.clients) == (2, 3)
    lines = findings(folder)
    assert len(lines) == 6
    assert all(line["reason"].startswith("not a gradient of an image model") for line in lines)
    page = folder.report.read_text()
    assert "10 x 64" in page
    assert "lr" in read_update(folder.captures, CaptureKey("none", 2, 2)).config


def test_an_app_that_ends_its_process_is_not_told_what_nobody_saw(tmp_path: Path) -> None:
    """Neither that it calls no model of PyTorch, nor that no epsilon was spent."""
    app = write_app(tmp_path, package="leaving", server=SERVER + "    import os\n    os._exit(7)\n")
    folder = audit(app, tmp_path / "run", "--defense", "dp")
    report = folder.report.read_text()
    assert "the process that ran the app ended before it could tell what it had seen" in report
    assert "no model of PyTorch was called" not in report
    record = json.loads(folder.federation("dp").read_text())
    assert [client["rounds_participated"] for client in record["clients"]] == [1, 1]
