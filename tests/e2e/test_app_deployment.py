"""A deployment on loopback, audited: one SuperLink, two SuperNodes, real processes, nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fl_audit.cli.main import _run
from fl_audit.core.captures import list_captures, read_truth
from fl_audit.core.errors import CaptureError
from fl_audit.federation.overlay.launchers import with_launchers, write_launchers
from fl_audit.federation.overlay.servers import free_port
from tests.e2e.apps import CLIENT, SERVER, TASK
from tests.e2e.deployed import MARK, agree, app_of_two_clients, federate, gone, needs_flower, running

pytestmark = needs_flower

ATTACK = ["--attack", "auto:iterations=20,further=0", "--seed", "1"]
EXAMPLE = Path(__file__).resolve().parents[2] / "examples/deployment.sh"
BUILD = "\n\ndef build():\n    return Net(32)\n"


def test_a_deployment_captures_and_leaks_what_the_local_engine_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MARK, str(tmp_path))
    # With evaluation: its process must not make that of the training forgotten.
    app = app_of_two_clients(tmp_path, "deployed", server=SERVER)
    options = ["--engine", "flwr", "--deployment", "--clients", "2"]
    run = tmp_path / "run"
    assert _run(["app", str(app), "--out", str(run), *ATTACK, *options]) == 0
    federate(app, tmp_path / "local")
    agree(run, tmp_path / "local", truth=True)
    lines = [json.loads(line) for line in (run / "findings.jsonl").read_text().splitlines()]
    undefended = [line for line in lines if line["defense"] == "none"]
    assert [line["client"] for line in undefended] == [0, 1]
    assert all(line["metrics"]["mse"] < 1e-6 for line in undefended)
    report = (run / "report.html").read_text()
    assert "a SuperLink and SuperNodes on loopback" in report
    assert "not to the bit" in report
    assert (run / "app-processes/none/supernode-1.log").is_file()
    assert gone(str(tmp_path), 5.0) == []


def test_the_example_with_the_server_alone_captures_and_grades_nothing_without_the_operators_truth(
    tmp_path: Path,
) -> None:
    """The user's own SuperLink and SuperNodes, whose clients run the app's own code."""
    app = app_of_two_clients(tmp_path, "unwatched", task=TASK + BUILD)
    write_launchers(tmp_path / "bin")
    environment = with_launchers(dict(os.environ), tmp_path / "bin")
    environment |= {MARK: str(tmp_path), "PORT": str(free_port())}
    environment["PATH"] += os.pathsep + str(Path(sys.executable).parent)
    told = ["--model", "unwatched.task:build", "--image-shape", "1,8,8", "--input-range=-1,1"]
    done = subprocess.run(
        ["bash", str(EXAMPLE), str(app), "--out", str(tmp_path / "run"), *ATTACK, "--server-only", *told],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "run"
    keys = list_captures(run / "captures", "none")
    assert len(keys) == 2
    for key in keys:
        with pytest.raises(CaptureError, match="must come from the operator, --truth module:function"):
            read_truth(run / "truth", key)
    lines = [json.loads(line) for line in (run / "findings.jsonl").read_text().splitlines()]
    assert {line["status"] for line in lines} == {"unscored"}
    assert all("ground truth must come from the operator" in line["reason"] for line in lines)
    assert "must then come from the operator" in (run / "report.html").read_text()
    # The images are right all the same: each is one that its client holds.
    from sklearn.datasets import load_digits

    held = load_digits().images[:40] / 16
    for key in keys:
        (picture,) = (run / "reconstructions/none" / key.stem).glob("*/0_rec.png")
        found = np.asarray(Image.open(picture).convert("L"), np.float64) / 255
        assert min(np.abs(found - image).max() for image in held) < 0.02
    assert gone(str(tmp_path), 10.0) == []


def test_an_app_that_fails_in_every_supernode_is_said_with_its_own_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = CLIENT + "\nimport a_package_that_is_not_there\n"
    app = app_of_two_clients(tmp_path, "failing", client=client)
    options = ["--engine", "flwr", "--deployment", "--clients", "2"]
    assert _run(["app", str(app), "--out", str(tmp_path / "run"), *options]) == 1
    said = capsys.readouterr().err
    assert "every client failed: ModuleNotFoundError" in said
    own = said.partition("the app's own traceback, of one client")[2].partition("What the app printed")[0]
    assert 'File "failing/client.py"' in own
    assert "fl_audit" not in own


@pytest.mark.parametrize("what", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_behind_by_an_audit_that_is_interrupted_or_killed(
    what: signal.Signals, tmp_path: Path
) -> None:
    app = app_of_two_clients(tmp_path, "hanging", before="import time; time.sleep(600)")
    mark = f"{tmp_path}-{what.name}"
    options = ["--engine", "flwr", "--deployment", "--clients", "2", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        [sys.executable, "-c", "from fl_audit.cli.main import main; main()", "app", str(app), *options],
        env=os.environ | {MARK: mark},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # A shell starts background jobs with SIGINT ignored, and they hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        end = time.monotonic() + 90
        while not running(mark, "flwr-serverapp") or running(mark, "flower-supernode") != 2:
            # What a SuperNode starts has its command line too, for as long as it takes from fork to exec.
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.2)
        process.send_signal(what)
        assert process.wait(30) == (130 if what == signal.SIGINT else -signal.SIGKILL)
        assert gone(mark, 15.0) == []
    finally:
        process.kill()
        process.wait()
