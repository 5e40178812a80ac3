"""A Flower app with one slow client; its modules lie beside pyproject.toml."""

from typing import cast

import numpy as np
import torch
import torch.nn as nn
from sklearn.datasets import load_digits


class Net(nn.Module):
    """A linear classifier of 8x8 digits."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch of digits."""
        return cast(torch.Tensor, self.fc(x.flatten(1)))


def load_data(partition_id: int, num_partitions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Load one partition of the digits."""
    digits = load_digits()
    order = np.random.default_rng(42).permutation(len(digits.images))[partition_id::num_partitions]
    images = torch.from_numpy(digits.images[order] / 16.0).float().unsqueeze(1)
    return images, torch.from_numpy(digits.target[order]).long()


def train(net: nn.Module, images: torch.Tensor, labels: torch.Tensor, lr: float) -> float:
    """Take one step on a batch."""
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    net.train()
    loss = criterion(net(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.item())
