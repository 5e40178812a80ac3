"""brokenimport: A Flower app that needs a package nobody has."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from hospital_imaging_toolkit import load_scans  # type: ignore[import-not-found]

# Flower ClientApp
app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Move the numbers by the number of local scans."""
    num_scans = len(load_scans(context.node_config["partition-id"]))
    arrays = [array + num_scans for array in msg.content.array_records["arrays"].to_numpy_ndarrays()]
    content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": MetricRecord({"num-examples": 1})})
    return Message(content=content, reply_to=msg)
