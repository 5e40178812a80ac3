# mypy: disable-error-code="import-not-found"
"""legacyexample: A Flower / PyTorch app."""

import torch
from flwr.client import Client, ClientApp, NumPyClient
from flwr.common import Context, NDArrays, Scalar

from legacyexample.task import Loader, Net, get_weights, load_data, set_weights, test, train


# Define Flower Client
class FlowerClient(NumPyClient):
    """A client that trains on its own pictures."""

    def __init__(self, trainloader: Loader, valloader: Loader, local_epochs: int, lr: float) -> None:
        self.net = Net()
        self.trainloader = trainloader
        self.valloader = valloader
        self.local_epochs = local_epochs
        self.lr = lr
        self.device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")

    def fit(self, parameters: NDArrays, config: dict[str, Scalar]) -> tuple[NDArrays, int, dict[str, Scalar]]:
        """Train the model with data of this client."""
        set_weights(self.net, parameters)
        train_loss = train(self.net, self.trainloader, self.local_epochs, self.lr, self.device)
        return get_weights(self.net), len(self.trainloader.dataset), {"train_loss": train_loss}

    def evaluate(
        self, parameters: NDArrays, config: dict[str, Scalar]
    ) -> tuple[float, int, dict[str, Scalar]]:
        """Evaluate the model on the data this client has."""
        set_weights(self.net, parameters)
        loss, accuracy = test(self.net, self.valloader, self.device)
        return loss, len(self.valloader.dataset), {"accuracy": accuracy}


def client_fn(context: Context) -> Client:
    """Construct a Client that will be run in a ClientApp."""
    # Read the node_config to fetch data partition associated to this node
    partition_id = int(context.node_config["partition-id"])
    num_partitions = int(context.node_config["num-partitions"])

    # Read run_config to fetch hyperparameters relevant to this run
    batch_size = int(context.run_config["batch-size"])
    trainloader, valloader = load_data(partition_id, num_partitions, batch_size)
    local_epochs = int(context.run_config["local-epochs"])
    lr = float(context.run_config["learning-rate"])

    # Return Client instance
    return FlowerClient(trainloader, valloader, local_epochs, lr).to_client()


# Flower ClientApp
app = ClientApp(client_fn)
