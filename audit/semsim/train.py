"""Training SemSim: batches of graded pairs in, a network in eval mode out."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from fl_audit.core.progress import Progress
from fl_audit.core.seeding import derive_seed, seeded_globals
from fl_audit.semsim import lite, triplet
from fl_audit.semsim.lite import Lite
from fl_audit.semsim.network import Backbone, build, prepare

Loss = Literal["triplet", "contrastive", "classification"]
LOSSES: tuple[Loss, ...] = get_args(Loss)

RATE, DECAY = 2e-3, 0.02
"""Highest learning rate and weight decay."""
LITE_RATE, HEAD_DECAY = 1e-3, 0.1
"""The same for the head of a pretrained trunk."""
TRUNK_SHARE = 0.5
"""The rate of that trunk's trained stages, as a share of its head's."""
CLEAR, STRANGERS = 0.55, 0.6
"""Grade from which a pair must be nearer than different pictures are, and the weight of that. Chosen on
held-out answers: with other pictures ranked as pairs of grade 0 the order of the answers was lost (Spearman
0.80, not 0.85)."""
_AVERAGE = 0.998
"""Weight of the past in the running mean of the weights, which is what training returns."""


@dataclass(frozen=True)
class Batch:
    """Originals with the same number of graded reconstructions each.

    Attributes:
        originals: float32 ``(N, 3, 32, 32)`` in [0, 1].
        reconstructions: ``(N, K, 3, 32, 32)``.
        grades: recognisability in [0, 1], ``(N, K)``.
    """

    originals: Tensor
    reconstructions: Tensor
    grades: Tensor


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Attributes:
        steps: optimiser steps.
        rate: highest learning rate; it rises over a twentieth of the steps and falls as a cosine. None: 1e-3
            for ``lite`` and ``twin``, 2e-3 for the others.
        minutes: processor time after which training ends early (with the schedule brought to its end), None
            for no limit. Time in which the process is stopped does not count. With a limit the result depends
            on the machine.
    """

    steps: int = 5000
    rate: float | None = None
    minutes: float | None = None


def train(
    batches: Iterator[Batch],
    *,
    beside: Iterator[Batch] | None = None,
    backbone: Backbone = "lite",
    loss: Loss = "triplet",
    schedule: Schedule | None = None,
    seed: int = 0,
    start: nn.Module | None = None,
    progress: Progress | None = None,
    margin: float = triplet.MARGIN,
    keep: Callable[[nn.Module, int], None] | None = None,
) -> nn.Module:
    """Train a backbone; the mean of the last steps' weights, in eval mode.

    Args:
        batches: endless.
        beside: other ones, of which each step trains on one too: ranked for itself, the losses add up.
        backbone: which network, unless ``start`` is given.
        loss: triplet (over all pairs of a batch, see `ranking_loss`), or one of the two for comparison.
        schedule: how long and how fast.
        seed: of the first weights.
        start: weights to go on from (fine-tuning).
        progress: told of every step.
        margin: of the loss.
        keep: called every 250 steps with the averaged network and the number of steps.
    """
    schedule = schedule or Schedule()
    progress = progress or Progress()
    if start is None:
        with seeded_globals(derive_seed(seed, "semsim-weights"), "torch"):
            network = build(backbone)
    else:
        network = copy.deepcopy(start)
    network = network.to(memory_format=torch.channels_last)
    if start is None and isinstance(network, Lite):
        lite.begin(network, lite.pretrained_path(), _images(next(batches)))
    network.train().requires_grad_(True)
    average = copy.deepcopy(network)
    optimiser = torch.optim.AdamW(_groups(network, schedule.rate))
    rates = [group["lr"] for group in optimiser.param_groups]
    trained = [value for group in optimiser.param_groups for value in group["params"]]
    clock = time.process_time()
    share, step, smoothed = 0.0, 0, math.nan
    progress.stage("train", 1)
    progress.begin("SemSim")
    while share < 1:
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * _rate(share)
        value = _loss(network, next(batches), loss, margin)
        if beside is not None:
            value = value + _loss(network, next(beside), loss, margin)
        optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained, 5.0)
        optimiser.step()
        step += 1
        _average(average, network, min(_AVERAGE, 1 - 1 / (step / 10 + 1)))
        now = float(value.detach())
        smoothed = now if math.isnan(smoothed) else 0.98 * smoothed + 0.02 * now
        share = step / schedule.steps
        if schedule.minutes is not None:
            share = max(share, (time.process_time() - clock) / (60 * schedule.minutes))
        progress.step(step, schedule.steps, smoothed)
        if keep is not None and step % 250 == 0:
            keep(_frozen(average), step)
    progress.advance()
    return _frozen(average)


def batch_loss(
    own: Tensor,
    other: Tensor,
    grades: Tensor,
    loss: Loss = "triplet",
    margin: float = triplet.MARGIN,
) -> Tensor:
    """The loss of one batch of features.

    Args:
        own: features of the originals ``(N, F)``.
        other: of their reconstructions ``(N, K, F)``.
        grades: ``(N, K)`` in [0, 1].
        loss: which.
        margin: of the loss.
    """
    distances = triplet.l2(own[:, None], other)
    # The next original of the batch, and what was made of it.
    apart = triplet.l2(own.roll(1, 0), other[:, 0])
    if loss == "triplet":
        far = torch.cat([apart, triplet.l2(own, own.roll(1, 0))])
        near = distances[grades >= CLEAR]
        return triplet.ranking_loss(
            distances.flatten(), grades.flatten(), margin=margin
        ) + STRANGERS * triplet.stranger_loss(near, far, margin)
    pairs = torch.cat([distances.flatten(), apart])
    wanted = torch.cat([grades.flatten(), torch.zeros_like(apart)])
    if loss == "contrastive":
        return triplet.contrastive_loss(pairs, wanted, margin)
    return triplet.classification_loss(pairs, wanted, margin)


def _loss(network: nn.Module, batch: Batch, loss: Loss, margin: float) -> Tensor:
    # Filters of single channels, of which the trunk has many, are slower in bfloat16.
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not isinstance(network, Lite)):
        out = network(_images(batch))
    out = out.float()
    n = len(batch.originals)
    return batch_loss(out[:n], out[n:].unflatten(0, (n, -1)), batch.grades, loss, margin)


def _images(batch: Batch) -> Tensor:
    """All images of a batch, originals first, as the backbones take them."""
    images = torch.cat([batch.originals, batch.reconstructions.flatten(0, 1)])
    return prepare(images).to(memory_format=torch.channels_last)


def _groups(network: nn.Module, rate: float | None) -> list[dict[str, Any]]:
    """What AdamW trains, at which highest rate and weight decay. A trunk's first stages stay as they are."""
    if not isinstance(network, Lite):
        return [{"params": list(network.parameters()), "lr": rate or RATE, "weight_decay": DECAY}]
    for value in network.kept():
        value.requires_grad_(False)
    rate = rate or LITE_RATE
    heads = [value for name, value in network.readers.named_parameters() if ".head." in name]
    stages = [value for name, value in network.readers.named_parameters() if ".head." not in name]
    return [
        {"params": heads, "lr": rate, "weight_decay": HEAD_DECAY},
        {"params": stages, "lr": rate * TRUNK_SHARE, "weight_decay": DECAY},
    ]


def _rate(share: float) -> float:
    warm = 0.05
    if share < warm:
        return max(share / warm, 0.02)
    return 0.5 * (1 + math.cos(math.pi * min((share - warm) / (1 - warm), 1.0))) + 0.002


@torch.no_grad()
def _average(average: nn.Module, network: nn.Module, past: float) -> None:
    for mean, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(new, 1 - past)
        else:
            mean.copy_(new)


def _frozen(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).eval().requires_grad_(False)
