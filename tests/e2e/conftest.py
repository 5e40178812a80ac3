"""One small audit, run once for all tests that look at what comes out of it."""

from pathlib import Path

import pytest

from fl_audit.core.progress import Progress
from fl_audit.run.config import RunConfig
from fl_audit.run.folder import RunFolder
from fl_audit.run.load import resolve_config
from fl_audit.run.pipeline import finish_run, start_run

SMALL = {
    "federation.rounds": 2,
    "federation.clients": 2,
    "defenses": ["dp"],
    "attack.names": ["inverting-gradients:iterations=150,restarts=1"],
}
"""A federation that is audited in a few seconds, and still leaks recognisably."""


def small(**changes: object) -> RunConfig:
    return resolve_config(None, SMALL | {key.replace("__", "."): value for key, value in changes.items()})


def audit(root: Path, config: RunConfig) -> RunFolder:
    folder = start_run(config, root, ["fl-audit", "run"])
    finish_run(folder, Progress())
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run; tests that change it copy it first."""
    return audit(tmp_path_factory.mktemp("audit") / "run", small())
