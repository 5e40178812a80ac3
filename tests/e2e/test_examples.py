"""The examples do what they say, in the words they print."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fl_audit.cli.main import _run
from fl_audit.reports.schema import read_summary
from fl_audit.run.config import RunConfig
from fl_audit.run.load import resolve_config

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
QUICK = ["--rounds", "2", "--clients", "2", "--attack", "inverting-gradients:iterations=60"]


def test_the_quickstart_is_the_default_run_with_every_key() -> None:
    config = resolve_config(EXAMPLES / "quickstart.yaml", {})
    assert config == resolve_config(None, {"defenses": ["dp"]})
    text = (EXAMPLES / "quickstart.yaml").read_text()
    for name, field in RunConfig.model_fields.items():
        keys = getattr(field.annotation, "model_fields", {})
        missing = [
            key for key in keys if not re.search(rf"^  {key}:", text, re.MULTILINE) and key != "local_epochs"
        ]
        assert not missing, (name, missing)


@pytest.mark.parametrize("name", ["quickstart.yaml", "compare_defenses.yaml", "server_defenses.yaml"])
def test_a_configuration_runs(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["run", str(EXAMPLES / name), *QUICK, "--out", str(tmp_path / "run")]) == 0
    summary = read_summary(tmp_path / "run" / "summary.json")
    config = resolve_config(EXAMPLES / name, {})
    assert list(summary.leak_rates()) == config.defense_specs()
    out = capsys.readouterr().out
    for spec in config.defenses:
        assert spec.split(":")[0] in out


def test_your_own_attack_is_one_more_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    spec = "your_own_attack:FromGrey:iterations=60"
    assert _run(["run", *QUICK, "--attack", spec, "--out", str(tmp_path / "run")]) == 0
    summary = read_summary(tmp_path / "run" / "summary.json")
    attacked = [leak.attack for defense in summary.defenses for leak in defense.attacks]
    assert spec in attacked


def test_the_audited_app_prints_what_it_says(tmp_path: Path) -> None:
    script = EXAMPLES / "your_own_strategy.py"
    promised = re.findall(r"^    (client \d: .*)$", script.read_text(), re.MULTILINE)
    assert len(promised) == 2
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed = [line for line in done.stdout.splitlines() if line.startswith("client")]
    assert printed == promised
    for client in (0, 1):
        original, reconstruction = (
            np.asarray(Image.open(tmp_path / "your-own-strategy" / f"client-{client}_{kind}.png"), np.int64)
            for kind in ("ori", "rec")
        )
        assert np.abs(original - reconstruction).mean() < 5
