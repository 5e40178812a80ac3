"""Training SemSim: batches of graded pairs in, a network in eval mode out."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from fl_audit.core.progress import Progress
from fl_audit.core.seeding import derive_seed, seeded_globals
from fl_audit.semsim import triplet
from fl_audit.semsim.network import Backbone, build, prepare

Loss = Literal["triplet", "contrastive", "classification"]
LOSSES: tuple[Loss, ...] = get_args(Loss)

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
        rate: highest learning rate; it rises over a twentieth of the steps and falls as a cosine.
        decay: weight decay.
        minutes: processor time after which training ends early (with the schedule brought to its end), None
            for no limit. Time in which the process is stopped does not count. With a limit the result depends
            on the machine.
    """

    steps: int = 5000
    rate: float = 2e-3
    decay: float = 0.02
    minutes: float | None = None


def train(
    batches: Iterator[Batch],
    *,
    backbone: Backbone = "narrow",
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
    network.train().requires_grad_(True)
    average = copy.deepcopy(network)
    optimiser = torch.optim.AdamW(network.parameters(), lr=schedule.rate, weight_decay=schedule.decay)
    clock = time.process_time()
    share, step, smoothed = 0.0, 0, math.nan
    progress.stage("train", 1)
    progress.begin("SemSim")
    while share < 1:
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate * _rate(share)
        value = _loss(network, next(batches), loss, margin)
        optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
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
    # Another original is unrecognisable whatever its quality: the next one of the batch, with a grade of 0.
    apart = triplet.l2(own.roll(1, 0), other[:, 0])
    pairs = torch.cat([distances.flatten(), apart])
    wanted = torch.cat([grades.flatten(), torch.zeros_like(apart)])
    if loss == "contrastive":
        return triplet.contrastive_loss(pairs, wanted, margin)
    if loss == "classification":
        return triplet.classification_loss(pairs, wanted, margin)
    # What can be recognised must also be nearer to its own original than to the others of the batch.
    return triplet.ranking_loss(pairs, wanted, margin=margin) + triplet.retrieval_loss(own, other, grades)


def _loss(network: nn.Module, batch: Batch, loss: Loss, margin: float) -> Tensor:
    images = torch.cat([batch.originals, batch.reconstructions.flatten(0, 1)])
    images = prepare(images).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = network(images)
    out = out.float()
    n = len(batch.originals)
    return batch_loss(out[:n], out[n:].unflatten(0, (n, -1)), batch.grades, loss, margin)


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
