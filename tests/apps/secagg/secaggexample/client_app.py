# mypy: disable-error-code="import-not-found"
"""secaggexample: A Flower with SecAgg+ app."""

import torch
from flwr.client import Client, ClientApp, NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.common import Context, NDArrays, Scalar

from secaggexample.task import Loader, get_weights, load_data, make_net, set_weights, test, train


# Define Flower Client
class FlowerClient(NumPyClient):
    """A client that trains on its own digits."""

    def __init__(
        self, trainloader: Loader, valloader: Loader, local_epochs: int, learning_rate: float
    ) -> None:
        self.net = make_net()
        self.trainloader = trainloader
        self.valloader = valloader
        self.local_epochs = local_epochs
        self.lr = learning_rate
        self.device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")

    def fit(self, parameters: NDArrays, config: dict[str, Scalar]) -> tuple[NDArrays, int, dict[str, Scalar]]:
        """Train the model with data of this client."""
        set_weights(self.net, parameters)
        results = train(self.net, self.trainloader, self.valloader, self.local_epochs, self.lr, self.device)
        return get_weights(self.net), len(self.trainloader.dataset), results

    def evaluate(
        self, parameters: NDArrays, config: dict[str, Scalar]
    ) -> tuple[float, int, dict[str, Scalar]]:
        """Evaluate the model on the data this client has."""
        set_weights(self.net, parameters)
        loss, accuracy = test(self.net, self.valloader, self.device)
        return loss, len(self.valloader.dataset), {"accuracy": accuracy}


def client_fn(context: Context) -> Client:
    """Construct a Client that will be run in a ClientApp."""
    partition_id = int(context.node_config["partition-id"])
    num_partitions = int(context.node_config["num-partitions"])
    trainloader, valloader = load_data(partition_id, num_partitions, int(context.run_config["batch-size"]))
    return FlowerClient(
        trainloader,
        valloader,
        local_epochs=int(context.run_config["local-epochs"]),
        learning_rate=float(context.run_config["learning-rate"]),
    ).to_client()


# Flower ClientApp
app = ClientApp(client_fn=client_fn, mods=[secaggplus_mod])
