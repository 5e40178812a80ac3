"""Killed at any moment, a run is finished by --resume with the findings of an uninterrupted one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fl_audit.cli.main import _run
from fl_audit.run.folder import RunFolder

ARGUMENTS = [
    *("run", "--rounds", "2", "--clients", "2", "--defense", "dp"),
    *("--attack", "inverting-gradients:iterations=150,restarts=1"),
]


def start(out: Path) -> subprocess.Popen[bytes]:
    command = "from fl_audit.cli.main import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", command, *ARGUMENTS, "--out", str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        # What runs in the background of a shell has Ctrl-C switched off, and hands that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(out: Path, pattern: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not list(out.glob(pattern)):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("moment", "how"),
    [
        ("captures/none/r001-*.json", signal.SIGKILL),
        ("reconstructions/none/r001-c01/*/result.json", signal.SIGKILL),
        ("reconstructions/none/r002-c00/*/result.json", signal.SIGINT),
    ],
    ids=["federation", "attack", "interrupt"],
)
def test_a_killed_run_is_finished(
    finished: RunFolder, tmp_path: Path, moment: str, how: signal.Signals
) -> None:
    out = tmp_path / "run"
    process = start(out)
    wait_for(out, moment, process)
    process.send_signal(how)
    code = process.wait(60)
    assert code == (130 if how is signal.SIGINT else -how)
    assert not (out / "findings.jsonl").exists()
    assert _run(["run", "--resume", str(out)]) == 0
    assert (out / "findings.jsonl").read_bytes() == finished.findings.read_bytes()


def test_resuming_a_finished_run_changes_nothing(finished: RunFolder) -> None:
    before = finished.findings.read_bytes()
    assert _run(["run", "--resume", str(finished.root)]) == 0
    assert finished.findings.read_bytes() == before
