"""A user's own folder with packages called attacks and strategies works beside ours."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import attacks, strategies, audit
import fl_audit.attacks, fl_audit.strategies.defenses
from fl_audit.strategies import audited
print(attacks.MINE, strategies.MINE, audit.MINE, "dlg" in fl_audit.attacks.attacks)
"""


def test_user_packages_of_the_same_names(tmp_path: Path) -> None:
    for name in ("attacks", "strategies", "audit"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"MINE = 'my {name}'\n")
    (tmp_path / "main.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "main.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["my", "attacks", "my", "strategies", "my", "audit", "True"]
