"""``fl-audit app --engine flwr``: one SuperLink and two SuperNodes on loopback, real processes."""

from pathlib import Path

import pytest

from fl_audit.cli.main import _run
from tests.e2e.apps import listing
from tests.e2e.deployed import MARK, agree, app_of_two_clients, federate, gone, needs_flower


@needs_flower
def test_a_deployment_captures_what_the_local_engine_does_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MARK, str(tmp_path))
    app = app_of_two_clients(tmp_path, "deployed")
    before = listing(app)
    local = federate(app, tmp_path / "local")
    outcome = federate(app, tmp_path / "flwr", engine="flwr", deployment=True)
    assert outcome.failure is None
    agree(tmp_path / "flwr", tmp_path / "local", truth=True)
    assert outcome == local.model_copy(update={"clients": 2})
    assert (tmp_path / "flwr/process/supernode-1.log").is_file()
    assert not (tmp_path / "flwr/process/flower").exists()
    assert listing(app) == before
    assert gone(str(tmp_path), 5.0) == []


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
