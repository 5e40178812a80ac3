"""What the tests of the witness share: images, a tiny network and one step of training."""

import torch
from torch import Tensor, nn
from torch.nn import functional

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(12, 1, 4, 4, generator=GENERATOR)
LABELS = torch.arange(12) % 3


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, rows: slice, loss: Tensor | None = None) -> None:
    optimizer.zero_grad()
    value = functional.cross_entropy(model(IMAGES[rows]), LABELS[rows]) if loss is None else loss
    value.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9, weight_decay=0.01)
