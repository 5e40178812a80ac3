"""Every process that was started here, however far down and detached, and the end of them all."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_SUBREAPER = 36  # prctl: PR_SET_CHILD_SUBREAPER
_POLL = 0.05  # seconds


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose own parent ends (Linux), so that none gets lost.

    Flower detaches what it starts into sessions of its own; a process group does not hold them together.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, 1, 0, 0, 0)


def descendants(root: int) -> set[int]:
    """Process ids of all living descendants of ``root``."""
    parents = _parents()
    found: set[int] = set()
    frontier = {root}
    while frontier:
        frontier = {pid for pid, parent in parents.items() if parent in frontier and pid not in found}
        found |= frontier
    return found


def end_descendants(patience: float, kill: float = 5.0) -> set[int]:
    """Ask all descendants of this process to end, then make them; returns those that are still there.

    Args:
        patience: seconds between asking and making.
        kill: seconds after which those that cannot be ended are given up.
    """
    for what, limit in ((signal.SIGTERM, patience), (signal.SIGKILL, kill)):
        end = time.monotonic() + limit
        told: set[int] = set()
        while left := descendants(os.getpid()):
            for pid in left - told:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, what)
            told |= left
            if time.monotonic() > end:
                break
            time.sleep(_POLL)
    return descendants(os.getpid())


def _parents() -> dict[int, int]:
    """Process id to parent; processes that have ended and wait for their parent are left out."""
    if not Path("/proc/self/stat").exists():
        command = ["ps", "-A", "-o", "pid=,ppid=,stat="]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows = [line.split() for line in done.stdout.splitlines()]
        return {int(pid): int(parent) for pid, parent, state in rows if not state.startswith("Z")}
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            state, parent = path.read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state not in "ZX":
                parents[int(path.parent.name)] = int(parent)
    return parents
