"""What apps do to whoever runs them: each case is said plainly, and nothing that was captured is lost."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from fl_audit.core.captures import list_captures, read_truth, read_update
from fl_audit.core.errors import ConfigError
from fl_audit.core.types import CaptureKey
from fl_audit.federation.apps import AppOutcome, copy_app, read_app, run_app
from fl_audit.federation.apps.normalise import find_normalisation
from fl_audit.models.app_model import Recipe
from tests.e2e.apps import CLIENT, PYPROJECT, SERVER, TASK, job_of, write_app


def run(app: Path, out: Path, **changes: Any) -> AppOutcome:
    return run_app(job_of(app, out, **changes), out / "process", lambda number: None)


def captured(out: Path) -> dict[int, str | None]:
    """Client to error, of round 1."""
    keys = [key for key in list_captures(out / "captures", "none") if key.round == 1]
    return {key.client: read_update(out / "captures", key).error for key in keys}


def test_clients_that_fail_exit_or_hang_are_named_and_the_round_goes_on(tmp_path: Path) -> None:
    app = write_app(
        tmp_path,
        package="unruly",
        before="""import sys, time
    who = context.node_config["partition-id"]
    if who == 1:
        raise OSError("cannot reach data.example.org")
    if who == 2:
        sys.exit(3)
    time.sleep({0: 6.5, 3: 2}.get(who, 0))""",
        server=SERVER + "    import sys\n    sys.exit(0)\n",
    )
    start = time.monotonic()
    outcome = run(app, tmp_path / "out", clients=4, timeout=5.0)
    assert time.monotonic() - start < 120
    assert outcome.failure is None
    assert outcome.rounds == [1]
    errors = captured(tmp_path / "out")
    assert "no answer within 5 s" in str(errors[0])  # also where it comes late, while others are at work
    assert "cannot reach data.example.org" in str(errors[1])
    assert "sys.exit(3)" in str(errors[2])
    assert errors[3] is None
    assert {problem.client for problem in outcome.failures} == {0, 1, 2}
    assert any("sys.exit(0)" in note for note in outcome.notes)
    log = (tmp_path / "out/process/app.log").read_text()
    assert "cannot reach data.example.org" in log


def test_an_import_error_is_the_apps_with_its_own_traceback(tmp_path: Path) -> None:
    app = write_app(tmp_path, package="broken", task=TASK + "\nimport a_package_that_is_not_there\n")
    outcome = run(app, tmp_path / "out")
    assert outcome.failure is not None
    assert outcome.failure.where == "import"
    assert "No module named 'a_package_that_is_not_there'" in outcome.failure.text
    assert 'File "broken/task.py"' in outcome.failure.traceback
    assert "fl_audit" not in outcome.failure.traceback


def test_a_process_that_is_ended_keeps_what_was_captured_within_the_budget(tmp_path: Path) -> None:
    server = SERVER + "    import os\n    os._exit(7)\n"
    app = write_app(tmp_path, package="leaving", server=server)
    outcome = run(app, tmp_path / "out", disk=25_000)  # two arrays of about 10 kB, sent and received, each
    assert outcome.failure is not None
    assert "ended with status 7" in outcome.failure.text
    assert list(captured(tmp_path / "out")) == [0]


def test_a_server_that_waits_for_more_clients_than_there_are_is_ended(tmp_path: Path) -> None:
    server = SERVER.replace(
        "    strategy = FedAvg(",
        "    import time\n    while len(list(grid.get_node_ids())) < 9:\n"
        "        time.sleep(0.1)\n    strategy = FedAvg(",
    )
    outcome = run(write_app(tmp_path, package="waiting", server=server), tmp_path / "out", timeout=3.0)
    assert outcome.failure is not None
    assert outcome.failure.where == "wait"
    assert "--clients" in outcome.failure.text


def test_a_folder_that_is_no_app_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found no pyproject.toml"):
        read_app(tmp_path, [])
    with pytest.raises(ConfigError, match="found no folder"):
        read_app(tmp_path / "nowhere", [])
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\nversion = '1'\n")
    with pytest.raises(ConfigError, match=r"Missing \[tool.flwr.app\] section"):
        read_app(tmp_path, [])
    text = PYPROJECT.format(package="tiny")
    (tmp_path / "pyproject.toml").write_text(text.replace("clientapp", "client"))
    with pytest.raises(ConfigError, match='"clientapp" missing'):
        read_app(tmp_path, [])
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(ConfigError, match="'rate' is not present.*keys: batch, lr, num-server-rounds"):
        read_app(tmp_path, ["rate=1"])
    with pytest.raises(ConfigError, match="--run-config: "):
        read_app(tmp_path, ["lr=[["])


def test_clients_and_rounds_come_from_option_folder_or_flower(tmp_path: Path) -> None:
    text = PYPROJECT.format(package="tiny")
    (tmp_path / "pyproject.toml").write_text(text)
    assert read_app(tmp_path, []).clients == 2
    (tmp_path / "pyproject.toml").write_text(
        text + '\n[tool.flwr.federations]\ndefault = "local"\n\n'
        "[tool.flwr.federations.local]\noptions.num-supernodes = 7\n"
    )
    app = read_app(tmp_path, ["lr=0.5 batch=4"], rounds=9)
    assert (app.clients, app.rounds, app.config) == (7, 9, {"num-server-rounds": 9, "lr": 0.5, "batch": 4})
    assert read_app(tmp_path, [], clients=3).clients == 3


def test_a_copy_leaves_out_caches_and_keeps_links_to_data(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "x.txt").write_text("1")
    app = write_app(tmp_path)
    (app / ".git").mkdir()
    (app / "data").symlink_to(os.path.relpath(data, app))
    copy_app(app, tmp_path / "copy")
    assert not (tmp_path / "copy/.git").exists()
    assert (tmp_path / "copy/data/x.txt").read_text() == "1"


def test_two_apps_with_modules_of_the_same_name_give_two_models(tmp_path: Path) -> None:
    import sys

    first = write_app(tmp_path / "a", package="twin")
    second = write_app(tmp_path / "b", package="twin", task=TASK.replace("classes=10", "classes=3"))
    recipe = Recipe(target="twin.task:get_model", args=[4])
    shapes = [recipe.make(folder).state_dict()["last.weight"].shape for folder in (first, second, first)]
    assert shapes == [(10, 4), (3, 4), (10, 4)]
    assert not any(name.startswith("twin") for name in sys.modules)
    with pytest.raises(ConfigError, match="--model module:function"):
        Recipe(target="twin.task:nothing").make(first)


@pytest.mark.parametrize(
    ("low", "high", "called", "found"),
    [
        (0.0, 1.0, [], "none"),
        (-1.0, 1.0, [((0.5,), (0.5,))], "Normalize((0.5), (0.5)) ran"),
        (-1.0, 1.0, [], "taken as 2 x - 1"),
        (0.0, 255.0, [], "taken as 255 x"),
    ],
)
def test_a_normalisation_is_undone(low: float, high: float, called: list[Any], found: str) -> None:
    images = torch.rand(3, 1, 4, 4)
    images[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    result = find_normalisation(images * (high - low) + low, called, [], None)
    assert not isinstance(result, str)
    assert result.how.startswith(found)
    torch.testing.assert_close(result.undo(images * (high - low) + low), images)


def test_a_normalisation_of_each_channel_is_told_from_others_by_what_fits() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    images = torch.rand(2, 3, 8, 8)
    images.flatten()[:2] = torch.tensor([0.0, 1.0])
    fed = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    result = find_normalisation(fed, [((0.5,) * 3, (0.5,) * 3)], [(mean, std)], None)
    assert not isinstance(result, str)
    torch.testing.assert_close(result.undo(fed), images)
    unknown = find_normalisation(fed, [], [], None)
    assert "--input-range LOW,HIGH" in str(unknown)


def test_what_is_learned_survives_data_loader_workers_flat_images_and_other_losses(tmp_path: Path) -> None:
    worker = """
    class Digits(torch.utils.data.Dataset):
        def __len__(self): return len(rows)
        def __getitem__(self, i): return normalize(images[rows[i]]), labels[rows[i]]
    return DataLoader(Digits(), batch_size=batch, num_workers=1)"""
    start = TASK.index("    data = TensorDataset")
    client = CLIENT.replace("model(images).argmax", "model(images.flatten(1)).argmax").replace(
        "cross_entropy(model(images), labels)", "cross_entropy(model(images), labels, label_smoothing=0.1)"
    )
    app = write_app(
        tmp_path,
        package="odd_ways",
        task=TASK[:start] + worker,
        client=client.replace("torch.optim.SGD", "torch.optim.AdamW"),
        before="images = images.flatten(1)",
    )
    outcome = run(app, tmp_path / "out", image_shape=(1, 8, 8))
    assert outcome.failure is None
    assert (outcome.image_shape, outcome.loss) == ((1, 8, 8), "cross-entropy(label_smoothing=0.1)")
    assert str(outcome.normalisation).endswith("is in the app")
    assert outcome.training is not None
    assert outcome.training.optimizer == "adamw"
    assert outcome.recipe == Recipe(
        target="odd_ways.task:get_model", args=[32], mean=[0.5], std=[0.5], flat=True
    )


def test_the_operators_truth_stands_in_where_training_cannot_be_watched(tmp_path: Path) -> None:
    task = (
        TASK + "\n\ndef truth(client, number):\n    return torch.full((2, 1, 8, 8), 0.25), [client, number]\n"
    )
    app = write_app(
        tmp_path,
        package="by_hand",
        task=task,
        client=CLIENT.replace("optimizer.step()", "[p.data.sub_(0.1 * p.grad) for p in model.parameters()]"),
    )
    outcome = run(app, tmp_path / "out", truth="by_hand.task:truth")
    assert outcome.truth_missing == []
    assert outcome.recipe is not None
    assert outcome.image_shape == (1, 8, 8)
    assert outcome.training is None  # how the client trained is not in it
    truth = read_truth(tmp_path / "out/truth", CaptureKey("none", 1, 1))
    assert truth.labels.tolist() == [1, 1]
    assert float(truth.images.mean()) == 0.25


def test_captures_of_an_app_are_keyed_by_partition(tmp_path: Path) -> None:
    outcome = run(write_app(tmp_path, package="keyed"), tmp_path / "out", attacked=1, clients=2)
    assert outcome.failure is None
    assert list(captured(tmp_path / "out")) == [0]
    assert outcome.participation == {0: 1, 1: 1}
    assert read_update(tmp_path / "out/captures", CaptureKey("none", 1, 0)).num_examples == 1
