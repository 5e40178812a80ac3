"""oneimage: A Flower / PyTorch app that takes one small step a round."""

from typing import cast

import numpy as np
import torch
import torch.nn as nn
from skimage.data import lfw_subset
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import ToTensor

Sample = tuple[torch.Tensor, int]


class MLP(nn.Module):
    """A small ReLU network for 25x25 grey images."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(25 * 25, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch of images."""
        return cast(torch.Tensor, self.layers(x))


class LeNet(nn.Module):
    """LeNet with sigmoids for 25x25 grey images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 12, 5, stride=2, padding=2)
        self.conv2 = nn.Conv2d(12, 12, 5, stride=2, padding=2)
        self.conv3 = nn.Conv2d(12, 12, 5, padding=2)
        self.fc = nn.Linear(12 * 7 * 7, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch of images."""
        for conv in (self.conv1, self.conv2, self.conv3):
            x = torch.sigmoid(conv(x))
        return cast(torch.Tensor, self.fc(x.flatten(1)))


def make_net(name: str) -> nn.Module:
    """Return the network that the run config names."""
    nets: dict[str, type[nn.Module]] = {"mlp": MLP, "lenet": LeNet}
    return nets[name]()


class Faces(Dataset[Sample]):
    """25x25 grey pictures, of a face (label 1) or of something else (label 0)."""

    def __init__(self, partition_id: int, num_partitions: int) -> None:
        pictures = lfw_subset().astype(np.float32)  # type: ignore[no-untyped-call]
        is_face = (np.arange(len(pictures)) < len(pictures) // 2).astype(int)  # The faces come first
        order = np.random.default_rng(7).permutation(len(pictures))[partition_id::num_partitions]
        self.pictures, self.is_face = pictures[order], is_face[order]
        self.to_tensor = ToTensor()

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Sample:
        return self.to_tensor(self.pictures[index]), int(self.is_face[index])


def load_data(partition_id: int, num_partitions: int, batch_size: int) -> DataLoader[Sample]:
    """Load the pictures of one client."""
    return DataLoader(Faces(partition_id, num_partitions), batch_size=batch_size, shuffle=True)


def train_one_step(net: nn.Module, trainloader: DataLoader[Sample], lr: float) -> tuple[float, int]:
    """Take one step on one batch; return its loss and its size."""
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    net.train()
    images, labels = next(iter(trainloader))
    loss = criterion(net(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item(), len(labels)


def test(net: nn.Module, dataloader: DataLoader[Sample]) -> tuple[float, float]:
    """Return the mean loss and the accuracy over a data loader."""
    net.eval()
    loss, correct, examples = 0.0, 0, 0
    with torch.no_grad():
        for images, labels in dataloader:
            outputs = net(images)
            loss += nn.functional.cross_entropy(outputs, labels, reduction="sum").item()
            correct += int((outputs.argmax(1) == labels).sum().item())
            examples += len(labels)
    return loss / examples, correct / examples
