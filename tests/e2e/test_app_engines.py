"""``fl-audit app --engine flwr``: options that do not go together."""

from pathlib import Path

import pytest

from fl_audit.cli.main import _run
from tests.e2e.deployed import app_of_two_clients


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--deployment"], "Add --engine flwr"),
        (["--engine", "flwr", "--deployment", "--superlink", "127.0.0.1:9"], "give one"),
        (["--engine", "flwr", "--superlink", "127.0.0.1:9"], "how many SuperNodes are to take part"),
        (["--engine", "flwr", "--superlink", "10.0.0.1:9", "--clients", "2"], "on this machine alone"),
        (["--engine", "flwr", "--deployment", "--server-only", "--defense", "dp"], "acts at clients"),
        (["--engine", "flwr"], "give one of them"),
        (["--engine", "docker"], "docker"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: list[str], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = app_of_two_clients(tmp_path, "refused")
    assert _run(["app", str(app), "--out", str(tmp_path / "run"), *options]) == 2
    assert why in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()
