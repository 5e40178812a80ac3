"""Attacks side by side write what one process writes."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fl_audit.core.errors import AuditError
from fl_audit.core.progress import Progress
from fl_audit.run import attack_stage
from fl_audit.run.attack_stage import attack_captures
from fl_audit.run.folder import RunFolder
from fl_audit.run.jobs import batches, jobs
from fl_audit.run.workers import run_side_by_side
from tests.e2e.conftest import audit, small


class Counter(Progress):
    def __init__(self) -> None:
        self.total = self.done = self.steps = 0

    def stage(self, name: str, total: int) -> None:
        self.total = total

    def step(self, done: int, total: int, value: float | None = None) -> None:
        self.steps += 1

    def advance(self) -> None:
        self.done += 1


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return audit(tmp_path_factory.mktemp("workers") / "run", small(attack__workers=2))


def test_the_results_are_the_same(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(run.root, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    shutil.rmtree(folder.reconstructions)
    monkeypatch.setattr(attack_stage, "WORTH_PROCESSES", 0.0)
    counter, config = Counter(), folder.load_config()
    attack_captures(folder, config, counter, torch.device("cpu"))
    assert counter.done == counter.total == len(jobs(folder, config))
    for file in run.reconstructions.rglob("result.json"):
        copy = folder.root / file.relative_to(run.root)
        assert copy.read_bytes() == file.read_bytes()
        assert copy.with_name("reconstruction.safetensors").read_bytes() == (
            file.with_name("reconstruction.safetensors").read_bytes()
        )


ENDLESS = """
import sys
from pathlib import Path
import torch
from fl_audit.core.progress import Progress
from fl_audit.run.jobs import batches, jobs
from fl_audit.run.folder import RunFolder
from fl_audit.run.workers import run_side_by_side

if __name__ == "__main__":
    folder = RunFolder(Path(sys.argv[1]))
    todo = batches(folder, jobs(folder, folder.load_config()), torch.device("cpu"))
    for _ in run_side_by_side(folder.root, todo, ["cpu", "cpu"], Progress()):
        pass
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds child processes through /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_main_process(run: RunFolder, tmp_path: Path, how: signal.Signals) -> None:
    shutil.copytree(run.root, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    folder.config.write_text(folder.config.read_text().replace("iterations=150", "iterations=1000000"))
    (tmp_path / "endless.py").write_text(ENDLESS)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "endless.py"), str(folder.root)],
        stderr=subprocess.DEVNULL,
        # What runs in the background of a shell has Ctrl-C switched off, and hands that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        wait_until(lambda: len(workers_of(process.pid)) == 2, "two workers started")
        workers = workers_of(process.pid)
        process.send_signal(how)
        process.wait(20)
        wait_until(lambda: not any(alive(worker) for worker in workers), "the workers ended")
    finally:
        process.kill()


def test_a_killed_worker_is_said_plainly(run: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(run.root, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    folder.config.write_text(folder.config.read_text().replace("iterations=150", "iterations=1000000"))

    def kill() -> None:
        wait_until(lambda: len(workers_of(os.getpid())) == 2, "two workers started")
        os.kill(workers_of(os.getpid())[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    endless = batches(folder, jobs(folder, folder.load_config()), torch.device("cpu"))
    with pytest.raises(AuditError, match="attack.workers"):
        list(run_side_by_side(folder.root, endless, ["cpu", "cpu"], Progress()))
    thread.join()


def workers_of(pid: int) -> list[int]:
    """Children that compute; the resource tracker of multiprocessing does not."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in command_line(int(child))]


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def alive(pid: int) -> bool:
    return command_line(pid) != b""


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.1)
