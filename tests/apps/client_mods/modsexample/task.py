"""modsexample: A Flower / PyTorch app with mods."""

from typing import cast

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from skimage.data import lfw_subset
from torch.utils.data import DataLoader, TensorDataset

Loader = DataLoader[tuple[torch.Tensor, ...]]


class Net(nn.Module):
    """A small CNN that tells faces from other 25x25 grey pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 3)
        self.fc1 = nn.Linear(16 * 4 * 4, 64)
        self.fc2 = nn.Linear(64, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch of images."""
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = F.relu(self.fc1(x.flatten(1)))
        return cast(torch.Tensor, self.fc2(x))


def load_data(partition_id: int, num_partitions: int, batch_size: int) -> tuple[Loader, Loader]:
    """Load one partition of the pictures: 80% train, 20% test."""
    pictures = torch.from_numpy(lfw_subset()).float().unsqueeze(1)  # type: ignore[no-untyped-call]
    labels = (torch.arange(len(pictures)) < len(pictures) // 2).long()  # The faces come first
    order = np.random.default_rng(42).permutation(len(pictures))[partition_id::num_partitions]
    split = int(0.8 * len(order))
    train_part, test_part = order[:split], order[split:]
    trainloader = DataLoader(
        TensorDataset(pictures[train_part], labels[train_part]), batch_size=batch_size, shuffle=True
    )
    testloader = DataLoader(TensorDataset(pictures[test_part], labels[test_part]), batch_size=batch_size)
    return trainloader, testloader


def train(net: nn.Module, trainloader: Loader, epochs: int, lr: float, device: torch.device) -> float:
    """Train the model on the training set."""
    net.to(device)
    criterion = nn.CrossEntropyLoss().to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    net.train()
    running_loss = 0.0
    for _ in range(epochs):
        for images, labels in trainloader:
            optimizer.zero_grad()
            loss = criterion(net(images.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
    return running_loss / (epochs * len(trainloader))


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
