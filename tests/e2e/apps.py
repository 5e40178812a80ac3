"""Small Flower apps, written to disk as their authors would: digits, a few pixels, a fraction of a second."""

from pathlib import Path
from textwrap import dedent
from typing import Any

from fl_audit.federation.apps import AppJob, read_app

PYPROJECT = """
[project]
name = "tiny"
version = "1.0.0"

[tool.flwr.app]
publisher = "somebody"

[tool.flwr.app.components]
serverapp = "{package}.server:app"
clientapp = "{package}.client:app"

[tool.flwr.app.config]
num-server-rounds = 1
lr = 0.1
batch = 1
"""

TASK = """
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import Normalize

normalize = Normalize((0.5,), (0.5,))


class Net(nn.Module):
    def __init__(self, hidden, classes=10):
        super().__init__()
        self.flatten = nn.Flatten()
        self.first = nn.Linear(64, int(hidden))
        self.last = nn.Linear(int(hidden), classes)

    def forward(self, x):
        return self.last(torch.relu(self.first(self.flatten(x))))


def get_model(hidden: int):
    return Net(hidden)


def load(partition, partitions, batch):
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target)
    rows = range(partition, 40, partitions)
    data = TensorDataset(normalize(images[rows]), labels[rows])
    return DataLoader(data, batch_size=batch, shuffle=True)
"""

SERVER = """
from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

from {package}.task import get_model

app = ServerApp()


@app.main()
def main(grid, context):
    strategy = FedAvg(fraction_evaluate=1.0)
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(get_model(32).state_dict()),
        num_rounds=context.run_config["num-server-rounds"],
        train_config=ConfigRecord({{"lr": context.run_config["lr"]}}),
    )
"""

CLIENT = """
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from {package}.task import get_model, load

app = ClientApp()


def prepared(message, context):
    model = get_model(32)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    node = context.node_config
    return model, load(node["partition-id"], node["num-partitions"], context.run_config["batch"])


@app.train()
def train(message, context):
    model, loader = prepared(message, context)
    optimizer = torch.optim.SGD(model.parameters(), lr=message.content["config"]["lr"])
    images, labels = next(iter(loader))
    {before}
    loss = torch.nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    reply = RecordDict(
        {{
            "arrays": ArrayRecord(model.state_dict()),
            "metrics": MetricRecord({{"num-examples": len(images), "loss": loss.item()}}),
        }}
    )
    return Message(reply, reply_to=message)


@app.evaluate()
def evaluate(message, context):
    model, loader = prepared(message, context)
    with torch.no_grad():
        hits = [(model(images).argmax(1) == labels).float().mean().item() for images, labels in loader]
    metrics = MetricRecord({{"accuracy": sum(hits) / len(hits), "num-examples": len(hits)}})
    return Message(RecordDict({{"metrics": metrics}}), reply_to=message)
"""

PLAIN_CLIENT = """
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message, context):
    arrays = [array + 1 for array in message.content["arrays"].to_numpy_ndarrays()]
    metrics = MetricRecord({{"num-examples": 5, "age-of-oldest": 93}})
    return Message(RecordDict({{"arrays": ArrayRecord(arrays), "metrics": metrics}}), reply_to=message)


@app.evaluate()
def evaluate(message, context):
    metrics = MetricRecord({{"accuracy": 0.5, "num-examples": 5}})
    return Message(RecordDict({{"metrics": metrics}}), reply_to=message)
"""


def write_app(
    root: Path,
    *,
    package: str = "tiny",
    before: str = "pass",
    task: str = TASK,
    server: str = SERVER,
    client: str = CLIENT,
) -> Path:
    """Write an app below ``root``; ``before`` is what its clients do just before they train."""
    folder = root / "app"
    (folder / package).mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PYPROJECT.format(package=package))
    (folder / package / "__init__.py").write_text("")
    (folder / package / "task.py").write_text(dedent(task))
    (folder / package / "server.py").write_text(dedent(server).format(package=package))
    code = dedent(client).format(package=package, before="BEFORE").replace("BEFORE", before)
    (folder / package / "client.py").write_text(code)
    return folder


def listing(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder`` with its contents."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def job_for(out: Path, **changes: Any) -> AppJob:
    """A job of two clients of the app ``tiny`` below ``out``, by engine local and without a defense."""
    values: dict[str, Any] = {
        "folder": "",
        "code": str(out / "app"),
        "server": "tiny.server:app",
        "client": "tiny.client:app",
        "config": {},
        "clients": 2,
        "seed": 1,
        "defense": "none",
        "slug": "none",
        "out": str(out),
        "rounds": None,
        "attacked": None,
        "timeout": 60.0,
        "disk": 10**9,
    }
    return AppJob.model_validate(values | changes)


def job_of(app: Path, out: Path, *, clients: int | None = None, **changes: Any) -> AppJob:
    """A job of the app in a folder, as its pyproject says it."""
    told = read_app(app, [], clients=clients)
    own = {"server": told.server, "client": told.client, "config": told.config, "clients": told.clients}
    return job_for(out, **{"code": str(app), **own, **changes})
