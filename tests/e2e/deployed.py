"""What tests of Flower's engines share: one app, the same captures by another engine, processes by a mark."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from fl_audit.core.captures import list_captures, read_truth, read_update
from fl_audit.federation.apps import AppOutcome, run_app
from fl_audit.federation.overlay.launchers import NEEDED, installed
from tests.e2e.apps import SERVER, job_of, write_app

needs_flower = pytest.mark.skipif(
    not set(NEEDED) <= set(installed()),
    reason=f"Flower's commands are not all installed: {', '.join(NEEDED)}",
)

TRAINING_ONLY = SERVER.replace("fraction_evaluate=1.0", "fraction_evaluate=0.0")
"""A process of a SuperNode for each message takes seconds: none is spent on evaluation."""

MARK = "FL_AUDIT_TEST_MARK"
"""A variable of the environment, which all that is started inherits."""


def federate(app: Path, out: Path, **changes: Any) -> AppOutcome:
    """Run the app once, without attack and grading."""
    job = job_of(app, out, **({"clients": 2, "timeout": 120.0} | changes))
    return run_app(job, out / "process", lambda number: None)


def app_of_two_clients(root: Path, package: str, **changes: Any) -> Path:
    return write_app(root, package=package, **({"server": TRAINING_ONLY} | changes))


def agree(ours: Path, theirs: Path, *, truth: bool) -> None:
    """The same updates of the same clients in the same rounds, to the rounding of sums; the same truth."""
    keys = list_captures(theirs / "captures", "none")
    assert keys
    assert list_captures(ours / "captures", "none") == keys
    for key in keys:
        mine, other = read_update(ours / "captures", key), read_update(theirs / "captures", key)
        assert mine.error is None
        for here, there in ((mine.sent, other.sent), (mine.received, other.received)):
            assert list(here) == list(there)
            for name, tensor in here.items():
                torch.testing.assert_close(tensor, there[name], rtol=1e-5, atol=1e-6)
        if truth:
            seen, known = read_truth(ours / "truth", key), read_truth(theirs / "truth", key)
            torch.testing.assert_close(seen.images, known.images, rtol=0, atol=1e-6)
            assert torch.equal(seen.labels, known.labels)
            assert seen.training == known.training


def marked(mark: str) -> list[str]:
    """Command lines of the living processes that carry the mark (Linux)."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (path / "environ").read_bytes():
                found.append((path / "cmdline").read_text().replace("\0", " "))
        except OSError:  # it ended meanwhile, or is somebody else's
            continue
    return found


def running(mark: str, command: str) -> int:
    """How many of the marked processes are of this command."""
    return sum(command in line for line in marked(mark))


def gone(mark: str, seconds: float) -> list[str]:
    """What is left of the marked processes after waiting for their end."""
    end = time.monotonic() + seconds
    while (left := marked(mark)) and time.monotonic() < end:
        time.sleep(0.2)
    return left
