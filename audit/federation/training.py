"""What a client computes: local SGD and evaluation. PyTorch only."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_audit.federation.spec import Training


def batches(count: int, training: Training, generator: torch.Generator) -> Iterator[Tensor]:
    """Index batches of one round's local training over ``count`` images, int64 ``(b,)`` each.

    Every epoch is a new permutation; its last batch may be smaller.
    """
    size = min(training.batch_size, count)
    per_epoch = math.ceil(count / size)
    left = training.local_steps if training.local_epochs is None else training.local_epochs * per_epoch
    remaining = left or 0
    while remaining > 0:
        epoch = torch.split(torch.randperm(count, generator=generator), size)[:remaining]
        yield from epoch
        remaining -= len(epoch)


def train(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    training: Training,
    generator: torch.Generator,
    *,
    proximal_mu: float = 0.0,
) -> tuple[float, int]:
    """Train ``model`` in place by SGD on the mean cross-entropy of each batch.

    Args:
        model: maps images to logits.
        images: float32 ``(N, C, H, W)`` in [0, 1], on the model's device.
        labels: int64 ``(N,)``.
        training: how.
        generator: draws the batches.
        proximal_mu: FedProx's weight of the squared distance to the model as sent (arXiv:1812.06127).

    Returns:
        Mean loss over the steps, and how many different images were used.
    """
    parameters = list(model.parameters())
    start = [parameter.detach().clone() for parameter in parameters] if proximal_mu > 0 else []
    optimizer = torch.optim.SGD(
        parameters,
        lr=training.learning_rate,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
    )
    model.train(training.train_mode)
    used: set[int] = set()
    losses: list[float] = []
    for rows in batches(len(images), training, generator):
        at = rows.to(images.device)
        loss = functional.cross_entropy(model(images[at]), labels[at])
        objective = loss
        for parameter, origin in zip(parameters if start else [], start, strict=True):
            objective = objective + proximal_mu / 2 * (parameter - origin).square().sum()
        optimizer.zero_grad()
        objective.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        used.update(rows.tolist())
        losses.append(loss.item())
    return sum(losses) / len(losses), len(used)


@torch.no_grad()
def evaluate(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 256) -> tuple[float, float]:
    """Accuracy and mean cross-entropy of ``model`` in eval mode; ``images`` must not be empty."""
    model.eval()
    right, loss = 0, 0.0
    for start in range(0, len(images), batch_size):
        target = labels[start : start + batch_size]
        logits = model(images[start : start + batch_size])
        right += int((logits.argmax(1) == target).sum())
        loss += float(functional.cross_entropy(logits, target, reduction="sum"))
    return right / len(images), loss / len(images)
