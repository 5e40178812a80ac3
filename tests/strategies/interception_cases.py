"""What the tests of interception share: clients that keep what left them, a model, a message."""

from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from tests.federation.toy import NumpyClients

NODES = 6
ROUNDS = 2


class Clients(NumpyClients):
    """`NumpyClients` behind a mod of Flower; keeps what left after the mod."""

    def __init__(self, mod: Any = None) -> None:
        super().__init__()
        self._mod = mod

    def __call__(self, message: Message, context: Any) -> Message:
        app = self.app()
        is_train = message.metadata.message_type == "train"
        reply = (
            app(message, context) if self._mod is None or not is_train else self._mod(message, context, app)
        )
        if is_train:
            number = next(iter(message.content.config_records.values()))["server-round"]
            client = context.node_config["partition-id"]
            arrays = next(iter(reply.content.array_records.values()))
            self.left[number, client] = {name: array.numpy() for name, array in arrays.items()}  # type: ignore[index]
        return reply


def model() -> ArrayRecord:
    rng = np.random.default_rng(0)
    return ArrayRecord({"w": Array(rng.normal(size=(5, 4))), "b": Array(rng.normal(size=4))})


def train_message(node: int, content: RecordDict | None = None, group: str = "") -> Message:
    config = ConfigRecord({"server-round": 2})
    return Message(content or RecordDict({"a": model(), "c": config}), node, "train", group_id=group)
