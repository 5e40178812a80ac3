"""A process ends with the one that started it."""

import subprocess
import sys
import time
from pathlib import Path

CHILD = """
import pathlib, sys, time
from fl_audit.federation._parent import when_orphaned
told = pathlib.Path(sys.argv[1])
when_orphaned(lambda: told.with_suffix(".orphaned").touch())
told.touch()
time.sleep(20)
"""

PARENT = """
import pathlib, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]])
while not pathlib.Path(sys.argv[2]).exists():
    time.sleep(0.05)
sys.stdin.read()
"""


def until(path: Path, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.05)
    return path.exists()


def test_a_child_is_told_when_its_parent_is_gone_and_not_before(tmp_path: Path) -> None:
    watching, orphaned = tmp_path / "child", tmp_path / "child.orphaned"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD, str(watching)], stdin=subprocess.PIPE)
    try:
        assert until(watching, 60)
        assert not until(orphaned, 2.5)
    finally:
        parent.kill()
        parent.communicate()
    assert until(orphaned, 15)
