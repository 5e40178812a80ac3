"""A tiny federation for tests: random images, a model of every awkward kind of array, hostile clients."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor, nn

from fl_audit.core.units import ImageData, ModelSpec
from fl_audit.federation import FederationSpec

CLIENTS = 4


class Net(nn.Module):
    """A convolution, batch norm (running statistics, an int64 counter), a 0-d parameter, a linear layer."""

    def __init__(self, channels: int, pixels: int, classes: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.conv = nn.Conv2d(channels, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * pixels, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.sigmoid(self.norm(self.conv(images * self.scale)))
        logits: Tensor = self.head(features.flatten(1))
        return logits


class TinySpec(ModelSpec):
    """`Net` for any image size."""

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        channels, height, width = image_shape
        return Net(channels, height * width, num_classes)


@dataclass(frozen=True)
class ToySplits:
    train: tuple[Tensor, ...]
    test: tuple[Tensor, ...]
    held_out: Tensor


def toy_data(count: int = 60) -> ImageData:
    """``count`` random 8x8 colour images of 3 classes."""
    generator = torch.Generator().manual_seed(7)
    return ImageData(
        images=torch.rand(count, 3, 8, 8, generator=generator),
        labels=torch.randint(0, 3, (count,), generator=generator),
        classes=("a", "b", "c"),
        title="random",
    )


def toy_spec(clients: int = CLIENTS, **changes: Any) -> FederationSpec:
    """A federation of ``clients`` with 8 train and 2 test images each, and 20 held out."""
    parts = torch.arange(10 * clients).view(clients, 10)
    values: dict[str, Any] = {
        "data": toy_data(10 * clients + 20),
        "splits": ToySplits(
            tuple(part[:8] for part in parts),
            tuple(part[8:] for part in parts),
            torch.arange(10 * clients, 10 * clients + 20),
        ),
        "model": TinySpec(),
        "rounds": 2,
        "clients": clients,
        "seed": 3,
    }
    return FederationSpec(**(values | changes))


Change = Callable[[dict[str, np.ndarray], dict[str, Any]], None]


@dataclass
class NumpyClients:
    """Client app on plain arrays: each client moves the model by its own seeded step; ``changes`` spoil it.

    Attributes:
        changes: by client, what it does to its arrays and metrics before they leave.
        left: copies of what left, by (round, client).
    """

    changes: dict[int, Change] = field(default_factory=dict)
    left: dict[tuple[int, int], dict[str, np.ndarray]] = field(default_factory=dict)

    def app(self) -> ClientApp:
        app = ClientApp()

        @app.train()
        def train(message: Message, context: Context) -> Message:
            return Message(self._train(message, int(context.node_config["partition-id"])), reply_to=message)

        @app.evaluate()
        def evaluate(message: Message, context: Context) -> Message:
            del context
            metrics = MetricRecord({"num-examples": 2, "accuracy": 0.5})
            return Message(RecordDict({"metrics": metrics}), reply_to=message)

        return app

    def _train(self, message: Message, client: int) -> RecordDict:
        model = next(iter(message.content.array_records.values()))
        server_round = next(iter(message.content.config_records.values()))["server-round"]
        assert isinstance(server_round, int)
        rng = np.random.default_rng([server_round, client])
        arrays = {
            name: np.asarray(array.numpy() + 0.1 * rng.normal(size=array.shape)).astype(array.numpy().dtype)
            for name, array in model.items()
        }
        metrics: dict[str, Any] = {"num-examples": 3 + client, "train_loss": 1.0 + 0.1 * client}
        if client in self.changes:
            self.changes[client](arrays, metrics)
        self.left[server_round, client] = {name: array.copy() for name, array in arrays.items()}
        record = ArrayRecord({name: Array(array) for name, array in arrays.items()})
        return RecordDict({"arrays": record, "metrics": MetricRecord(metrics)})
