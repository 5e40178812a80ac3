# mypy: disable-error-code="import-not-found"
"""oneimage: A Flower / PyTorch app that takes one small step a round."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from oneimage.task import load_data, make_net, test, train_one_step

# Flower ClientApp
app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Take one step on local data."""
    net = make_net(str(context.run_config["model"]))
    net.load_state_dict(msg.content.array_records["arrays"].to_torch_state_dict())

    trainloader = load_data(
        int(context.node_config["partition-id"]),
        int(context.node_config["num-partitions"]),
        int(context.run_config["batch-size"]),
    )
    loss, num_examples = train_one_step(net, trainloader, float(context.run_config["learning-rate"]))

    content = RecordDict(
        {
            "arrays": ArrayRecord(net.state_dict()),
            "metrics": MetricRecord({"train_loss": loss, "num-examples": num_examples}),
        }
    )
    return Message(content=content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Evaluate the model on local data."""
    net = make_net(str(context.run_config["model"]))
    net.load_state_dict(msg.content.array_records["arrays"].to_torch_state_dict())

    dataloader = load_data(
        int(context.node_config["partition-id"]), int(context.node_config["num-partitions"]), 32
    )
    loss, accuracy = test(net, dataloader)

    metrics = MetricRecord({"eval_loss": loss, "eval_acc": accuracy, "num-examples": len(dataloader.dataset)})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=msg)
