"""``fl-audit app`` on clients as many write them: mixed precision, accumulated gradients, smoothed labels."""

import json
from pathlib import Path

import torch

from fl_audit.cli.main import _run
from fl_audit.core.captures import read_truth
from fl_audit.core.types import CaptureKey
from fl_audit.run.folder import RunFolder
from tests.e2e.apps import CLIENT, write_app

PLAIN = """    loss = torch.nn.functional.cross_entropy(model(images), labels)
    loss.backward()
"""
STYLES = """    criterion = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    if context.node_config["partition-id"] == 0:
        with torch.autocast("cpu", torch.bfloat16):
            loss = criterion(model(images), labels)
        loss.backward()
    else:
        for image, label in zip(images.split(1), labels.split(1)):
            loss = criterion(model(image), label) / len(images)
            loss.backward()
"""


def test_mixed_precision_accumulated_gradients_and_smoothed_labels_are_understood(tmp_path: Path) -> None:
    assert PLAIN in CLIENT
    app = write_app(tmp_path, package="styles", client=CLIENT.replace(PLAIN, STYLES))
    command = [
        "app",
        str(app),
        "--run-config",
        "batch=2",
        "--attack",
        "auto:iterations=20,further=0",
        "--seed",
        "3",
    ]
    assert _run([*command, "--out", str(tmp_path / "run")]) == 0
    folder = RunFolder(tmp_path / "run")
    assert folder.load_config().threat.loss == "cross-entropy(label_smoothing=0.1)"
    for client in (0, 1):
        truth = read_truth(folder.truth, CaptureKey("none", 1, client))
        assert (len(truth.images), truth.training.batch_size, truth.training.local_steps) == (2, 2, 1)
        assert truth.images.dtype == torch.float32
    lines = [json.loads(line) for line in folder.findings.read_text().splitlines()]
    errors = {
        client: [
            line["metrics"]["mse"] for line in lines if (line["defense"], line["client"]) == ("none", client)
        ]
        for client in (0, 1)
    }
    assert all(error < 1e-6 for error in errors[1])  # the sum of two parts is the gradient of the whole
    assert all(error < 1e-2 for error in errors[0])  # bfloat16 rounds a gradient to three digits


def test_gradients_that_a_client_clips_are_simulated(tmp_path: Path) -> None:
    """The function is taken from its module when the app is imported, as most apps do."""
    step = PLAIN + "    clip_grad_norm_(model.parameters(), 0.05)\n"
    client = CLIENT.replace(PLAIN, f"{step}    optimizer.step()\n    optimizer.zero_grad()\n{step}")
    client = "from torch.nn.utils import clip_grad_norm_\n" + client
    app = write_app(tmp_path, package="clips", client=client)
    command = ["app", str(app), "--attack", "auto:iterations=20,further=0", "--seed", "3"]
    assert _run([*command, "--out", str(tmp_path / "run")]) == 0
    folder = RunFolder(tmp_path / "run")
    training = read_truth(folder.truth, CaptureKey("none", 1, 0)).training
    assert (training.clip_norm, training.local_steps, training.uniform) == (0.05, 2, True)
    assert "The training that was found explains the updates" in folder.report.read_text()


def test_clients_with_losses_of_their_own_are_not_called_safe(tmp_path: Path) -> None:
    weights = "torch.linspace(1, 2 + context.node_config['partition-id'], 10)"
    own = PLAIN.replace("labels)", f"labels, weight={weights})")
    assert own != PLAIN
    client = CLIENT.replace(PLAIN, own)
    app = write_app(tmp_path, package="weighted", client=client)
    command = ["app", str(app), "--run-config", "batch=3", "--attack", "auto:iterations=2,further=0"]
    assert _run([*command, "--out", str(tmp_path / "run")]) == 0
    report = RunFolder(tmp_path / "run").report.read_text()
    assert "ome clients train on cross-entropy(weight=" in report
