"""Clients that fail in every way a client can: recorded with the reason, and the round goes on."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fl_audit.core.errors import FederationError
from fl_audit.core.units import Arrays, Defense, State
from fl_audit.reports.schema import read_findings, read_summary
from fl_audit.strategies.defenses import defenses
from tests.e2e.conftest import audit, small

WAYS = ["sound", "raise", "nan", "inf", "shape", "missing", "extra", "zero"]
CALLS: list[str] = []


class Hostile(Defense):
    """Each client fails in another way."""

    only: str = ""

    def apply(
        self, sent: Arrays, received: Arrays, *, rng: np.random.Generator, state: State
    ) -> dict[str, np.ndarray]:
        way = self.only or WAYS[len(CALLS) % len(WAYS)]
        CALLS.append(way)
        arrays = {name: array.copy() for name, array in received.items()}
        first = next(iter(arrays))
        if way == "raise":
            raise RuntimeError("<script>alert('boom')</script>")
        if way in ("nan", "inf"):
            arrays[first].flat[0] = np.nan if way == "nan" else np.inf
        elif way == "shape":
            arrays[first] = arrays[first][:-1]
        elif way == "missing":
            del arrays[first]
        elif way == "extra":
            arrays["more"] = np.ones(3, np.float32)
        elif way == "zero":
            arrays = {name: array.copy() for name, array in sent.items()}
        return arrays


@pytest.fixture(autouse=True)
def hostile() -> Iterator[None]:
    CALLS.clear()
    defenses.register("hostile")(Hostile)
    yield
    defenses._units.pop("hostile")


def test_each_failure_is_that_clients_finding(tmp_path: Path) -> None:
    config = small(defenses=["hostile"], baseline=False, federation__clients=8, federation__rounds=2)
    folder = audit(tmp_path / "run", config)
    findings = [f for f in read_findings(folder.findings) if f.defense == "hostile" and f.round == 1]
    assert sorted(finding.client for finding in findings) == list(range(8))
    assert CALLS[:8] == WAYS
    words = {"raise": "boom", "nan": "NaN", "inf": "inf", "shape": "shape (", "zero": "the update is zero"}
    for way, word in words.items():
        hit = [finding for finding in findings if finding.reason is not None and word in finding.reason]
        assert len(hit) == 1, (way, [finding.reason for finding in findings])
        assert hit[0].status == ("client-failed" if way == "raise" else "attack-failed")
        assert hit[0].recognisable is None
    # Arrays too few or too many do not make a client safe: the others are attacked, and the finding says so.
    noted = {
        "missing": "left out, since the client did not send them back: '1.weight'",
        "extra": "left out, since they were not sent to the client: 'more'",
    }
    for note in noted.values():
        (finding,) = (finding for finding in findings if note in finding.notes)
        assert finding.status == "graded"
    assert [finding.status for finding in findings].count("graded") == 3
    second = [f for f in read_findings(folder.findings) if f.defense == "hostile" and f.round == 2]
    assert len(second) == 8
    page = folder.report.read_text() + "".join(
        path.read_text() for path in folder.root.glob("clients/*.html")
    )
    assert "<script>alert" not in page
    assert "&lt;script&gt;" in page
    leak = read_summary(folder.summary).defenses[0]
    assert (leak.graded, sum(leak.failed.values())) == (6, 10)


def test_every_client_failing_ends_the_run_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(FederationError, match="boom") as caught:
        audit(tmp_path / "run", small(defenses=["hostile:only=raise"], baseline=False))
    assert caught.value.exit_code == 1
