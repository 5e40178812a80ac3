"""``fl-audit app --engine ray|flwr``: the same app captures the same updates under Flower's own engines."""

from pathlib import Path

import pytest

from fl_audit.cli.main import _run
from fl_audit.federation.apps import HELD_OUT, AppOutcome
from tests.e2e.apps import CLIENT, SERVER, TASK, listing
from tests.e2e.deployed import agree, app_of_two_clients, federate, gone, needs_flower

pytestmark = pytest.mark.filterwarnings("ignore")


def of_models(outcome: AppOutcome) -> object:
    facts = ("recipe", "image_shape", "classes", "parameters", "loss", "training", "normalisation", "torch")
    return [getattr(outcome, fact) for fact in facts]


@pytest.mark.parametrize("engine", ["ray", pytest.param("flwr", marks=needs_flower)])
def test_a_simulation_of_flowers_captures_what_the_local_engine_does(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rounds, evaluation included, under a defense that draws; under flwr the SuperLink simulates."""
    monkeypatch.setenv("FL_AUDIT_TEST_MARK", str(tmp_path))
    server = SERVER.replace('context.run_config["num-server-rounds"]', "2")
    app = app_of_two_clients(tmp_path, f"by_{engine}", server=server)
    before = listing(app)
    outcomes = {
        name: federate(app, tmp_path / name, engine=name, defense="noise:0.1") for name in ("local", engine)
    }
    assert outcomes[engine].failure is None
    agree(tmp_path / engine, tmp_path / "local", truth=True)
    assert of_models(outcomes[engine]) == of_models(outcomes["local"])
    assert outcomes[engine].accuracy == outcomes["local"].accuracy
    assert outcomes[engine].participation == {0: 2, 1: 2}
    assert (tmp_path / engine / "process" / HELD_OUT).is_file()
    assert listing(app) == before
    assert not list((tmp_path / engine / "truth/.arriving").iterdir())
    assert not (tmp_path / engine / "process/flower").exists()
    assert gone(str(tmp_path), 5.0) == []


def test_a_client_that_hangs_or_fails_under_ray_is_named_and_the_round_goes_on(tmp_path: Path) -> None:
    before = """import time
    if context.node_config["partition-id"] == 0:
        raise OSError("cannot reach data.example.org")
    time.sleep(30)"""
    app = app_of_two_clients(tmp_path, "unruly_by_ray", before=before)
    outcome = federate(app, tmp_path / "out", engine="ray", timeout=10.0)
    reasons = {problem.client: problem.reason for problem in outcome.failures}
    assert "OSError: cannot reach data.example.org" in reasons[0]
    assert "no answer within 10 s (--timeout)" in reasons[1]
    assert 'File "unruly_by_ray/client.py"' in outcome.tracebacks[0]
    assert "fl_audit" not in outcome.tracebacks[0]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--deployment"], "Add --engine flwr"),
        (["--engine", "flwr", "--deployment", "--superlink", "127.0.0.1:9"], "give one"),
        (["--engine", "flwr", "--superlink", "127.0.0.1:9"], "how many SuperNodes are to take part"),
        (["--engine", "flwr", "--superlink", "10.0.0.1:9", "--clients", "2"], "on this machine alone"),
        (["--engine", "flwr", "--server-only", "--defense", "dp"], "acts at clients"),
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


@needs_flower
def test_a_superlink_that_does_not_answer_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fl_audit.federation.overlay.servers import free_port

    app = app_of_two_clients(tmp_path, "unreached", client=CLIENT, task=TASK)
    address = ["--superlink", f"127.0.0.1:{free_port()}", "--clients", "2"]
    assert _run(["app", str(app), "--out", str(tmp_path / "run"), "--engine", "flwr", *address]) == 1
    assert "no SuperLink answers at that address. Start it" in " ".join(capsys.readouterr().err.split())
