"""The apps of ``tests/apps``, each as its author would write it: captured as they are, and understood."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fl_audit.core.captures import list_captures, read_truth, read_update
from fl_audit.core.errors import CaptureError
from fl_audit.core.progress import Progress
from fl_audit.core.types import EVERYONE
from fl_audit.federation.apps import read_app
from fl_audit.models.app_model import Recipe
from fl_audit.run.app_capture import capture_app
from fl_audit.run.app_settings import AppSettings, app_config, start_app_run
from fl_audit.run.folder import CONTROL, RunFolder
from fl_audit.run.grants import read_knowledge
from fl_audit.run.load import resolve_config

APPS = Path(__file__).resolve().parents[1] / "apps"


@dataclass(frozen=True)
class Expected:
    """What is to be found out about an app; ``model`` None: nothing of an image model."""

    name: str
    overrides: str
    clients: int
    model: str | None
    shape: tuple[int, int, int] = (0, 0, 0)
    batch: int = 0
    optimizer: str = "sgd"


CASES = [
    Expected("quickstart_pytorch", "num-server-rounds=1", 8, "pytorchexample.task:Net()", (3, 32, 32), 16),
    Expected(
        "one_image", "num-server-rounds=1 model='lenet'", 2, "oneimage.task:make_net('lenet')", (1, 25, 25), 1
    ),
    Expected("legacy", "num-server-rounds=1", 4, "legacyexample.task:Net()", (1, 25, 25), 8),
    Expected("custom_strategy", "num-server-rounds=1", 2, "customstrategy.task:Net()", (3, 32, 32), 16),
    Expected("client_mods", "num-server-rounds=1", 2, "modsexample.task:Net()", (1, 25, 25), 8),
    Expected("secagg", "num-server-rounds=1", 3, "secaggexample.task:make_net(42)", (1, 8, 8), 32),
    Expected("sklearn_logreg", "num-server-rounds=1", 2, None),
]


def capture(case: Expected, root: Path) -> RunFolder:
    folder = APPS / case.name
    app = read_app(folder, [case.overrides], clients=case.clients)
    settings = AppSettings(
        name=app.name,
        server=app.server,
        client=app.client,
        config=app.config,
        clients=app.clients,
        clients_from=app.clients_from,
        rounds=app.rounds,
    )
    config = resolve_config(None, app_config({"attack.clients": 1}, settings))
    run = start_app_run(folder, settings, config, root, ["fl-audit", "app"])
    capture_app(run, config, Progress())
    return run


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_app_as_people_write_it_is_understood(case: Expected, tmp_path: Path) -> None:
    run = capture(case, tmp_path / "run")
    (key,) = list_captures(run.captures, "none")
    # A round of an app that aggregates securely is one capture.
    assert (key.round, key.client) == (1, EVERYONE if case.name == "secagg" else 0)
    update = read_update(run.captures, key)
    assert update.sent
    assert update.error is None
    if case.model is None:
        assert not (run.root / "model.json").exists()
        with pytest.raises(CaptureError):
            read_truth(run.truth, key)
        return
    assert Recipe.model_validate_json((run.root / "model.json").read_text()).words == case.model
    truth = read_truth(run.truth, replace(key, client=0))
    assert truth.images.shape[1:] == case.shape
    assert 0 <= float(truth.images.min()) < 0.1
    assert 0.7 < float(truth.images.max()) <= 1
    assert (truth.training.batch_size, truth.training.optimizer) == (case.batch, case.optimizer)
    assert list_captures(run.captures, CONTROL)
    assert update.problem() is None
    knowledge = read_knowledge(run.knowledge_file(key), key)
    assert knowledge.model is not None
    assert knowledge.image_shape == case.shape
    assert len(knowledge.cohort) == (case.clients if case.name == "secagg" else 0)
