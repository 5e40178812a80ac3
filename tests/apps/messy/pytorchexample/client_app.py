# mypy: disable-error-code="import-not-found"
"""pytorchexample: A Flower app that leaves traces (and keeps the name of the template's package)."""

import random
import threading
import time
from pathlib import Path

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from pytorchexample.task import Net, load_data
from pytorchexample.task import train as train_fn

# Flower ClientApp
app = ClientApp()


def heartbeat() -> None:
    """Touch a file every second, for ever."""
    while True:
        Path("heartbeat.txt").write_text(f"{time.time()}\n")
        time.sleep(1.0)


threading.Thread(target=heartbeat, name="heartbeat", daemon=True).start()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train the model on a few local digits."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)

    partition_id = int(context.node_config["partition-id"])
    model = Net()
    model.load_state_dict(msg.content.array_records["arrays"].to_torch_state_dict())
    images, labels = load_data(partition_id, int(context.node_config["num-partitions"]))
    batch_size = int(context.run_config["batch-size"])
    batch = torch.randperm(len(images))[:batch_size]
    loss = train_fn(model, images[batch], labels[batch], float(context.run_config["learning-rate"]))
    torch.save(model.state_dict(), f"client_{partition_id}.pt")

    metrics = MetricRecord({"train_loss": loss, "num-examples": batch_size})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=msg)
