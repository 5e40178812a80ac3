"""customstrategy: A Flower / PyTorch app with its own strategy."""

from functools import lru_cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image
from skimage import data as pictures
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader, Dataset, random_split
from torchvision.transforms import Compose, Normalize, ToTensor

NUM_IMAGES = 320  # Images of all partitions together
PHOTOGRAPHS = (  # Together with the two of scikit-learn: nine classes
    "astronaut",
    "immunohistochemistry",
    "chelsea",
    "coffee",
    "hubble_deep_field",
    "retina",
    "rocket",
)


class Net(nn.Module):
    """A small CNN with batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.pool = nn.MaxPool2d(2, 2)
        self.fc = nn.Linear(32 * 8 * 8, 9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch of images."""
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        x = self.pool(F.relu(self.bn2(self.conv2(x))))
        return cast(torch.Tensor, self.fc(x.flatten(1)))


pytorch_transforms = Compose([ToTensor(), Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))])


class Crops(Dataset[dict[str, Any]]):
    """32x32 RGB crops of nine photographs; the label is the photograph."""

    def __init__(self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> None:
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"img": pytorch_transforms(self.images[index]), "label": int(self.labels[index])}


@lru_cache(maxsize=2)
def load_crops(seed: int, num_images: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Cut random squares out of the photographs and shrink them to 32x32."""
    photographs = load_sample_images().images + [getattr(pictures, name)() for name in PHOTOGRAPHS]
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(num_images) % len(photographs))
    images = np.empty((num_images, 32, 32, 3), dtype=np.uint8)
    for i, label in enumerate(labels):
        photograph = photographs[label]
        height, width = photograph.shape[:2]
        side = int(rng.integers(80, 200))
        top, left = int(rng.integers(height - side)), int(rng.integers(width - side))
        square = Image.fromarray(photograph[top : top + side, left : left + side])
        images[i] = np.asarray(square.resize((32, 32), Image.Resampling.BILINEAR))
    return images, labels


def load_data(
    partition_id: int, num_partitions: int, batch_size: int
) -> tuple[DataLoader[dict[str, Any]], DataLoader[dict[str, Any]]]:
    """Load one partition of the crops."""
    images, labels = load_crops(seed=42, num_images=NUM_IMAGES)
    partition = Crops(images[partition_id::num_partitions], labels[partition_id::num_partitions])
    # Divide data on each node: 80% train, 20% test
    train_part, test_part = random_split(partition, [0.8, 0.2], generator=torch.Generator().manual_seed(42))
    trainloader = DataLoader(train_part, batch_size=batch_size, shuffle=True)
    testloader = DataLoader(test_part, batch_size=batch_size)
    return trainloader, testloader


def load_centralized_dataset() -> DataLoader[dict[str, Any]]:
    """Load test set and return dataloader."""
    images, labels = load_crops(seed=43, num_images=100)
    return DataLoader(Crops(images, labels), batch_size=128)


def train(
    net: nn.Module,
    trainloader: DataLoader[dict[str, Any]],
    epochs: int,
    lr: float,
    device: torch.device,
) -> float:
    """Train the model on the training set."""
    net.to(device)  # move model to GPU if available
    criterion = torch.nn.CrossEntropyLoss().to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    net.train()
    running_loss = 0.0
    for _ in range(epochs):
        for batch in trainloader:
            images = batch["img"].to(device)
            labels = batch["label"].to(device)
            optimizer.zero_grad()
            loss = criterion(net(images), labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
    return running_loss / (epochs * len(trainloader))


def test(net: nn.Module, testloader: DataLoader[dict[str, Any]], device: torch.device) -> tuple[float, float]:
    """Validate the model on the test set."""
    net.to(device)
    criterion = torch.nn.CrossEntropyLoss()
    correct, examples, loss = 0, 0, 0.0
    net.eval()
    with torch.no_grad():
        for batch in testloader:
            images = batch["img"].to(device)
            labels = batch["label"].to(device)
            outputs = net(images)
            loss += criterion(outputs, labels).item()
            correct += int((torch.max(outputs, 1)[1] == labels).sum().item())
            examples += len(labels)
    return loss / len(testloader), correct / examples
