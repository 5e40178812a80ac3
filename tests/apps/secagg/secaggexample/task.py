"""secaggexample: A Flower with SecAgg+ app."""

from collections import OrderedDict
from typing import cast

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from flwr.common import NDArrays
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

Loader = DataLoader[tuple[torch.Tensor, ...]]


class Net(nn.Module):
    """A small CNN for 8x8 digits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.pool = nn.MaxPool2d(2, 2)
        self.fc1 = nn.Linear(8 * 4 * 4, 32)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch of images."""
        x = self.pool(F.relu(self.conv(x)))
        x = F.relu(self.fc1(x.flatten(1)))
        return cast(torch.Tensor, self.fc2(x))


def make_net(seed: int = 42) -> Net:
    """Create the model with the same weights each time."""
    torch.manual_seed(seed)
    return Net()


def get_weights(net: nn.Module) -> NDArrays:
    """Return the weights of the model as NumPy arrays."""
    return [val.cpu().numpy() for _, val in net.state_dict().items()]


def set_weights(net: nn.Module, parameters: NDArrays) -> None:
    """Put NumPy arrays into the model."""
    params_dict = zip(net.state_dict().keys(), parameters, strict=True)
    net.load_state_dict(OrderedDict({k: torch.tensor(v) for k, v in params_dict}), strict=True)


def load_data(partition_id: int, num_partitions: int, batch_size: int) -> tuple[Loader, Loader]:
    """Load one partition of the digits: 80% train, 20% test."""
    digits = load_digits()
    images = torch.from_numpy(digits.images / 16.0).float().unsqueeze(1)
    labels = torch.from_numpy(digits.target).long()
    order = np.random.default_rng(42).permutation(len(images))[partition_id::num_partitions]
    split = int(0.8 * len(order))
    train_part, test_part = order[:split], order[split:]
    trainloader = DataLoader(
        TensorDataset(images[train_part], labels[train_part]), batch_size=batch_size, shuffle=True
    )
    testloader = DataLoader(TensorDataset(images[test_part], labels[test_part]), batch_size=batch_size)
    return trainloader, testloader


def train(
    net: nn.Module,
    trainloader: Loader,
    valloader: Loader,
    epochs: int,
    learning_rate: float,
    device: torch.device,
) -> dict[str, float]:
    """Train the model on the training set."""
    net.to(device)
    criterion = nn.CrossEntropyLoss().to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=learning_rate, momentum=0.9)
    net.train()
    for _ in range(epochs):
        for images, labels in trainloader:
            optimizer.zero_grad()
            criterion(net(images.to(device)), labels.to(device)).backward()
            optimizer.step()
    val_loss, val_acc = test(net, valloader, device)
    return {"val_loss": val_loss, "val_accuracy": val_acc}


def test(net: nn.Module, testloader: Loader, device: torch.device) -> tuple[float, float]:
    """Validate the model on the test set."""
    net.to(device)
    net.eval()
    loss, correct, examples = 0.0, 0, 0
    with torch.no_grad():
        for images, labels in testloader:
            outputs = net(images.to(device)).cpu()
            loss += F.cross_entropy(outputs, labels, reduction="sum").item()
            correct += int((outputs.argmax(1) == labels).sum().item())
            examples += len(labels)
    return loss / examples, correct / examples
