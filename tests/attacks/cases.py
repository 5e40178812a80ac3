"""Small federated clients for the tests of attacks: a real model, one real local training, one update."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fl_audit.core.knowledge import Knowledge
from fl_audit.core.seeding import seeded_globals, torch_generator
from fl_audit.core.types import CaptureKey, TrainingDetails, Update

CPU = torch.device("cpu")


class Centre(nn.Module):
    """Normalisation as the models have it: a layer without parameters."""

    def forward(self, images: Tensor) -> Tensor:
        """To roughly zero mean and unit deviation."""
        return (images - 0.5) / 0.25


def small_net(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A smooth convolutional net with a linear layer at the end."""
    channels, height, width = shape
    return nn.Sequential(
        Centre(),
        nn.Conv2d(channels, 8, 3, stride=2, padding=1),
        nn.Sigmoid(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(8 * -(-height // 2) * -(-width // 2), classes),
    )


def dense_net(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Two linear layers on the pixels."""
    return nn.Sequential(
        Centre(),
        nn.Flatten(),
        nn.Linear(shape[0] * shape[1] * shape[2], 64),
        nn.ReLU(),
        nn.Linear(64, classes),
    )


def norm_net(shape: tuple[int, int, int], classes: int, dropout: float = 0.5) -> nn.Module:
    """A net with batch norm and dropout."""
    return nn.Sequential(
        nn.Conv2d(shape[0], 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.Sigmoid(),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(6 * shape[1] * shape[2], classes),
    )


def norm_net_without_dropout(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A net with batch norm, whose training another process can repeat."""
    return norm_net(shape, classes, dropout=0.0)


def pooling_net(shape: tuple[int, int, int], classes: int) -> nn.Sequential:
    """The small net of many tutorials: of four pixels next to each other, the gradient follows one."""
    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * (height // 2) * (width // 2), 32),
        nn.ReLU(),
        nn.Linear(32, classes),
    )


NETS: dict[str, Callable[[tuple[int, int, int], int], nn.Module]] = {
    "small": small_net,
    "dense": dense_net,
    "norm": norm_net,
    "norm-without-dropout": norm_net_without_dropout,
    "pooling": pooling_net,
}


@dataclass(frozen=True)
class Case:
    """One client's update with what it trained on; tests hand an attack ``update`` and ``knowledge`` only."""

    update: Update
    knowledge: Knowledge
    images: Tensor
    labels: Tensor


def make_case(
    net: str = "small",
    *,
    labels: tuple[int, ...] = (1,),
    classes: int = 2,
    shape: tuple[int, int, int] = (1, 8, 8),
    training: TrainingDetails | None = None,
    grant_training: bool = True,
    grant_labels: bool = True,
    metrics: Mapping[str, int] | None = None,
    seed: int = 0,
    data_seed: int | None = None,
    order: tuple[int, ...] | None = None,
    proximal: float = 0.0,
    images: Tensor | None = None,
) -> Case:
    """Train a client with `torch.optim` for real and capture its update.

    Clients with one ``seed`` share the model; ``data_seed`` gives each its own images. ``order`` lists the
    image of each use where images are used more than once; ``labels`` are the images'. Images are noise
    unless given, ``(N, C, H, W)``.
    """
    details = training or TrainingDetails(batch_size=len(labels))
    generator = torch_generator(seed if data_seed is None else data_seed, "images")
    noise = torch.rand(len(labels), *shape, generator=generator)
    images = noise if images is None else images
    with seeded_globals(seed, "weights"):
        client = NETS[net](shape, classes)
    with seeded_globals(seed, "other weights"):
        architecture = NETS[net](shape, classes)
    target = torch.tensor(labels)
    sent = snapshot(client)
    used = list(range(len(labels)) if order is None else order)
    train(client, images[used], target[used], details, proximal)
    update = Update(
        CaptureKey("none", 1, 0),
        7,
        sent,
        snapshot(client),
        {"proximal-mu": proximal} if proximal else {},
        {"num-examples": len(labels)} if metrics is None else metrics,
    )
    knowledge = Knowledge(
        level="C" if grant_training else "B",
        model=architecture,
        loss="cross-entropy",
        num_classes=classes,
        image_shape=shape,
        training=details if grant_training else None,
        labels=target[used] if grant_labels else None,
    )
    return Case(update, knowledge, images, target)


def train(
    model: nn.Module, images: Tensor, labels: Tensor, details: TrainingDetails, proximal: float = 0.0
) -> None:
    """The local training as PyTorch does it: the oracle of the unrolled simulation."""
    model.train(details.train_mode)
    optimiser = torch_optimiser(model, details)
    start = [parameter.detach().clone() for parameter in model.parameters()]
    steps = zip(torch.split(images, details.batch_size), torch.split(labels, details.batch_size), strict=True)
    for number, (part, marks) in enumerate(steps):
        if details.learning_rates is not None:
            optimiser.param_groups[0]["lr"] = details.learning_rates[number]
        loss = cross_entropy(model(part), marks)
        for parameter, origin in zip(model.parameters(), start, strict=True):
            loss = loss + proximal / 2 * (parameter - origin).square().sum()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        if details.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), details.clip_norm)
        optimiser.step()


def torch_optimiser(model: nn.Module, details: TrainingDetails) -> torch.optim.Optimizer:
    """The optimiser of PyTorch that the details describe."""
    if details.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(),
            lr=details.learning_rate,
            momentum=details.momentum,
            dampening=details.dampening,
            weight_decay=details.weight_decay,
            nesterov=details.nesterov,
        )
    kinds: dict[str, type[torch.optim.Adam]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return kinds[details.optimizer](
        model.parameters(),
        lr=details.learning_rate,
        betas=details.betas,
        eps=details.eps,
        weight_decay=details.weight_decay,
        amsgrad=details.amsgrad,
    )


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the state dict."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
