"""What a client computes: local SGD and evaluation. PyTorch only."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_audit.core.captures import NO_IMAGES
from fl_audit.core.training import Batch, Learner, Training, TrainingHooks
from fl_audit.federation.witness import report_batch, report_nothing


@dataclass(frozen=True)
class Trained:
    """What a client can say of its training.

    Attributes:
        loss: mean over the steps; None where clients do not tell.
        images: how many different images were used; all that there are where clients do not tell.
    """

    loss: float | None
    images: int


def batches(count: int, training: Training, generator: torch.Generator) -> Iterator[Tensor]:
    """Index batches of one round's local training over ``count`` images, int64 ``(b,)`` each.

    Every epoch is a new permutation; its last batch may be smaller. With Poisson sampling, batches are of
    every size, none included.
    """
    remaining = training.steps(count)
    if training.sampling == "poisson":
        for _ in range(remaining):
            yield torch.nonzero(torch.rand(count, generator=generator) < training.rate(count)).flatten()
        return
    while remaining > 0:
        order = torch.randperm(count, generator=generator)
        epoch = torch.split(order, min(training.batch_size, count))[:remaining]
        yield from epoch
        remaining -= len(epoch)


def train(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    training: Training,
    generator: torch.Generator,
    *,
    num_classes: int,
    defense: TrainingHooks,
    rng: torch.Generator,
    proximal_mu: float = 0.0,
) -> Trained:
    """Train ``model`` in place by SGD on the mean cross-entropy of each batch.

    Args:
        model: maps images to logits.
        images: float32 ``(N, C, H, W)`` in [0, 1], on the model's device.
        labels: int64 ``(N,)``.
        training: how, after the defense's own settings.
        generator: draws the batches.
        num_classes: classes of the federation.
        defense: acts on batches, gradients and steps.
        rng: what the defense draws from, on the CPU.
        proximal_mu: FedProx's weight of the squared distance to the model as sent (arXiv:1812.06127).
    """
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=training.learning_rate,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
    )
    if proximal_mu > 0:
        optimizer.register_step_pre_hook(_pull(model, proximal_mu))
    model.train(training.train_mode)
    learner = defense.begin(Learner(model, optimizer, training, images, labels, num_classes), rng=rng)
    used: set[int] = set()
    losses: list[float] = []
    for rows in batches(len(images), training, generator):
        learner.optimizer.zero_grad()
        if len(rows):
            at = rows.to(images.device)
            losses.append(_backward(learner, Batch(images[at], labels[at], images[at]), defense, rng))
        else:
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
        learner.optimizer.step()
        used.update(rows.tolist())
    if not used:
        report_nothing(NO_IMAGES)
    if training.sampling == "poisson":
        return Trained(None, len(images))
    return Trained(sum(losses) / len(losses), len(used))


def _backward(learner: Learner, drawn: Batch, defense: TrainingHooks, rng: torch.Generator) -> float:
    """Leave the gradients of one batch in the parameters; its mean loss."""
    batch = defense.batch(drawn, learner, rng=rng)
    report_batch(batch.images, batch.originals)
    loss = functional.cross_entropy(learner.model(batch.images), batch.labels)
    defense.objective(loss, learner, batch).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    parameters = dict(learner.model.named_parameters())
    found = {name: value.grad for name, value in parameters.items() if value.grad is not None}
    for name, gradient in defense.gradients(found, learner, batch).items():
        parameters[name].grad = gradient
    return loss.item()


def _pull(model: nn.Module, mu: float) -> Callable[..., None]:
    """A hook that adds the gradient of FedProx's term just before a step, whoever made the rest."""
    origins = [(parameter, parameter.detach().clone()) for parameter in model.parameters()]

    def add(*step: Any) -> None:
        del step
        for parameter, origin in origins:
            if parameter.grad is not None:
                parameter.grad += mu * (parameter.detach() - origin)

    return add


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
