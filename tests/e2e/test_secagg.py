"""A whole audit under secure aggregation: one capture a round, findings of every client."""

import shutil
from pathlib import Path

import pytest

from fl_audit.core.captures import list_captures, read_truth
from fl_audit.core.progress import Progress
from fl_audit.core.types import EVERYONE, CaptureKey
from fl_audit.reports.schema import read_findings, read_summary
from fl_audit.run.folder import RunFolder
from fl_audit.run.grade_stage import grade_run
from tests.e2e.conftest import audit, small

CLIENTS = 3


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    config = small(
        defenses=["dp-server", "clip:0.5+secagg"],
        baseline=False,
        federation__rounds=1,
        federation__clients=CLIENTS,
        attack__names=["inverting-gradients:iterations=150,restarts=1"],
        attack__clients=2,
    )
    return audit(tmp_path_factory.mktemp("audit") / "run", config)


def test_every_client_has_its_findings_of_the_one_capture(secured: RunFolder) -> None:
    (key,) = list_captures(secured.captures, "clip-0.5-secagg")
    assert (key.client, key.stem) == (EVERYONE, "r001-all")
    findings = [f for f in read_findings(secured.findings) if f.defense == "clip:0.5+secagg"]
    assert [(f.client, f.image, f.status) for f in findings] == [(0, 0, "graded"), (1, 0, "graded")]
    for finding in findings:
        truth = read_truth(secured.truth, CaptureKey(key.defense, 1, finding.client))
        assert finding.label == int(truth.labels[0])
        assert finding.original is not None
        assert "r001-all" in finding.original
        assert (secured.root / finding.original).is_file()
        assert (finding.batch_size, finding.local_steps) == (1, 1)
    # the attacker was given the mean, so it made an image for each of three clients
    assert len({f.reconstruction for f in findings}) == 2
    assert (secured.truth / key.defense / "r001-c02.safetensors").is_file()
    assert list_captures(secured.captures, "dp-server") == [CaptureKey("dp-server", 1, c) for c in range(2)]


def test_the_report_says_what_the_server_sees_and_who_is_protected(secured: RunFolder) -> None:
    summary = read_summary(secured.summary)
    server, secagg = summary.defenses
    assert server.leak_rate is not None
    assert server.leak_rate >= 0.5  # the server sees through it
    assert server.epsilon is not None
    assert "NOT against the server" in server.privacy
    assert not server.against_server
    assert secagg.against_server
    assert "no defense" in server.server_sees
    assert secagg.epsilon is None
    assert "num-examples, which are the weights" in secagg.server_sees
    assert {client.client: client.in_clear.get("num-examples") for client in secagg.clients} == {
        0: 1,
        1: 1,
        2: 1,
    }
    assert [client.rounds_participated for client in secagg.clients] == [1] * CLIENTS
    page = secured.report.read_text()
    assert "NOT against the server" in page
    # Once in the table of the defenses, once in that of the frontier.
    assert page.count('<br><span class="muted">not against the server</span>') == 2
    assert "num-examples, which are the weights" in page


def test_where_a_clients_truth_is_gone_the_others_are_graded(secured: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(secured.root, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    sealed = folder.truth / "clip-0.5-secagg"
    (sealed / "r001-c01.safetensors").unlink()

    def states() -> dict[int, str]:
        grade_run(folder, folder.load_config(), Progress())
        lines = read_findings(folder.findings)
        assert str(tmp_path) not in folder.findings.read_text()
        return {f.client: f.status for f in lines if f.defense == "clip:0.5+secagg"}

    assert states() == {0: "graded", 1: "unscored"}
    shutil.rmtree(sealed)
    assert states() == {0: "unscored", 1: "unscored"}
    (folder.captures / "clip-0.5-secagg" / "r001-all.json").write_text("{}")
    assert states() == {0: "unscored", 1: "unscored"}
