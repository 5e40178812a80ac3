# mypy: disable-error-code="import-not-found"
"""A Flower app with one slow client; its modules lie beside pyproject.toml."""

import time

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from task import Net, load_data
from task import train as train_fn

# Flower ClientApp
app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train the model on a few local digits; on one of the clients, take long over it."""
    partition_id = int(context.node_config["partition-id"])
    if partition_id == int(context.run_config["slow-partition"]):
        time.sleep(float(context.run_config["sleep-seconds"]))

    model = Net()
    model.load_state_dict(msg.content.array_records["arrays"].to_torch_state_dict())
    images, labels = load_data(partition_id, int(context.node_config["num-partitions"]))
    batch_size = int(context.run_config["batch-size"])
    lr = float(context.run_config["learning-rate"])
    loss = train_fn(model, images[:batch_size], labels[:batch_size], lr)

    metrics = MetricRecord({"train_loss": loss, "num-examples": batch_size})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=msg)
