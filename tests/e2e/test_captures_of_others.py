"""Captures that ``audited(...)`` took in somebody's own server app go to ``fl-audit attack``."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy

from fl_audit.cli.main import _run
from fl_audit.core.aggregates import mean_update
from fl_audit.core.captures import read_update, write_update
from fl_audit.core.types import CaptureKey
from fl_audit.federation.local_engine import run_local
from fl_audit.federation.server_app import quiet_flower
from fl_audit.reports.caveats import caveats
from fl_audit.reports.schema import read_summary
from fl_audit.reports.verdict import headline
from fl_audit.reports.words import circumstance
from fl_audit.run.adopt import adopt_captures
from fl_audit.run.record import defense_facts
from fl_audit.strategies import audited

IMAGES = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(5))


class Net(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))


def federate(out: Path, strategy: Any = None) -> None:
    client = ClientApp()

    @client.train()
    def train(message: Message, context: Context) -> Message:
        model = Net()
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        who = int(context.node_config["partition-id"])
        torch.autograd.backward(cross_entropy(model(IMAGES[who : who + 1]), torch.tensor([who])))
        torch.optim.SGD(model.parameters(), lr=0.1).step()
        metrics = MetricRecord({"num-examples": 1})
        content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
        return Message(content, reply_to=message)

    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        torch.manual_seed(0)
        watched = audited(strategy or FedAvg(fraction_evaluate=0.0), out=out)
        watched.start(grid=grid, initial_arrays=ArrayRecord(Net().state_dict()), num_rounds=1)

    with quiet_flower():
        run_local(server, client, clients=2, seed=1)


def test_they_are_attacked_given_model_shape_and_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    federate(tmp_path)
    assert _run(["attack", str(tmp_path)]) == 2
    assert "--model module:function" in capsys.readouterr().err
    options = ["--model", "tests.e2e.test_captures_of_others:Net", "--num-classes", "4"]
    assert _run(["attack", str(tmp_path), *options, "--image-shape", "1,9,9"]) == 2
    assert not (tmp_path / "config.yaml").exists()
    options += ["--image-shape", "1,8,8", "--training", "learning_rate=0.1"]
    assert _run(["attack", str(tmp_path), *options]) == 0
    for client in range(2):
        (path,) = tmp_path.glob(f"reconstructions/none/r001-c{client:02d}/*/0_rec.png")
        with Image.open(path) as picture:
            seen = torch.from_numpy(np.asarray(picture, dtype=np.float32)) / 255
        assert float((seen - IMAGES[client, 0]).abs().max()) < 0.01
    assert _run(["grade", str(tmp_path)]) == 0
    summary = read_summary(tmp_path / "summary.json")
    assert summary.leak_rates() == {"none": None}
    for text in (headline(summary), *caveats(summary)):
        assert "without defense" not in text
    assert "whatever protection the federation itself applied is not known here" in headline(summary)
    assert _run(["attack", str(tmp_path), "--model", "lenet"]) == 2  # it has a config.yaml now


def test_an_aggregate_is_attacked_as_one_update(tmp_path: Path) -> None:
    federate(tmp_path / "single")
    one, two = (read_update(tmp_path / "single/captures", CaptureKey("none", 1, who)) for who in (0, 1))
    mean = mean_update(
        "none",
        1,
        sent=one.sent,
        mean={name: (value + two.received[name]) / 2 for name, value in one.received.items()},
        clients={0: {"num-examples": 1}, 1: {"num-examples": 1}},
    )
    run = tmp_path / "run"
    write_update(run / "captures", mean)
    options = ["--model", "tests.e2e.test_captures_of_others:Net", "--num-classes", "4"]
    options += ["--image-shape", "1,8,8", "--training", "learning_rate=0.1"]
    assert _run(["attack", str(run), *options]) == 0
    assert len(list(run.glob("reconstructions/none/r001-all/*/*_rec.png"))) == 2
    assert _run(["grade", str(run)]) == 0
    (defense,) = read_summary(run / "summary.json").defenses
    assert [(client.client, client.rounds_participated) for client in defense.clients] == [(0, 1), (1, 1)]
    assert defense.aggregate_of == [2]


def test_a_strategy_of_flowers_that_protects_is_named(tmp_path: Path) -> None:
    inner = FedAvg(fraction_evaluate=0.0)
    strategy = DifferentialPrivacyServerSideFixedClipping(
        inner, noise_multiplier=0.5, clipping_norm=2.0, num_sampled_clients=2
    )
    federate(tmp_path, strategy)
    folder = adopt_captures(
        tmp_path, model="tests.e2e.test_captures_of_others:Net", num_classes=4, image_shape=(1, 8, 8)
    )
    (facts,) = defense_facts(folder, folder.load_config())
    assert circumstance(facts) == (
        "as recorded (under its own DifferentialPrivacyServerSideFixedClipping; whatever else the federation "
        "itself applied is not known here)"
    )
    assert facts.own is not None
    assert "noise_multiplier = 0.5" in facts.own[0].detail
    assert "not against the server itself" in facts.own[0].detail
