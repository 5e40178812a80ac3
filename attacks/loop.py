"""The one optimisation loop: an attack by optimisation is a choice of the `Parts` that it runs on."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from fl_audit.attacks.labels import Labels
from fl_audit.attacks.objectives import Objective
from fl_audit.attacks.optimisers import Optimiser
from fl_audit.attacks.priors import Prior
from fl_audit.attacks.problem import AttackFailed, Problem
from fl_audit.attacks.rows import simulation
from fl_audit.attacks.schedules import Constant, Never, Schedule, Stopping
from fl_audit.attacks.simulation import check_differentiable
from fl_audit.attacks.starts import NormalNoise, Start
from fl_audit.core.types import Reconstruction

CHECK_EVERY = 20
"""Iterations between two looks at the objective: each waits for the device."""


@dataclass(frozen=True)
class Parts:
    """What the loop runs on.

    Attributes:
        objective: distance of simulated and observed update.
        optimiser: what moves the images.
        iterations: steps of the optimiser in each restart.
        restarts: independent starts.
        priors: penalties added to the objective.
        start: where a restart begins.
        schedule: factor on the step size.
        stopping: when to stop early.
        box: whether the images are projected to [0, 1] after each step.
        success: a total at which no further chunk of restarts is begun.
        check_every: iterations between checks of the objective, for progress, stopping and NaN.
    """

    objective: Objective
    optimiser: Optimiser
    iterations: int
    restarts: int = 1
    priors: tuple[Prior, ...] = ()
    start: Start = NormalNoise()
    schedule: Schedule = Constant()
    stopping: Stopping = Never()
    box: bool = True
    success: float = 0.0
    check_every: int = CHECK_EVERY


@dataclass(frozen=True)
class Outcome:
    """What the loop found.

    Attributes:
        images: ``(N, C, H, W)`` in [0, 1]: of all iterates of all restarts, the one with the lowest total.
        total: its objective plus priors.
        iterations: steps of the optimiser, over all restarts.
    """

    images: Tensor
    total: float
    iterations: int

    def reconstruction(self, labels: Labels) -> Reconstruction:
        """What an attack gives back that is nothing but this loop."""
        return Reconstruction(
            "done",
            images=self.images,
            labels=labels.values,
            labels_inferred=labels.inferred,
            objective=self.total,
            iterations=self.iterations,
        )


class _Best:
    """The best iterate of each restart, kept on the device without waiting for it."""

    def __init__(self, images: Tensor) -> None:
        self.totals = torch.full((len(images),), math.inf, device=images.device)
        self.images = images.detach().clone()

    def offer(self, totals: Tensor, images: Tensor) -> None:
        """Keep what is better; NaN never is."""
        totals, images = totals.detach(), images.detach()
        better = totals < self.totals
        self.totals = torch.where(better, totals, self.totals)
        self.images = torch.where(better.view(-1, 1, 1, 1, 1), images.clamp(0, 1), self.images)


def optimise(problem: Problem, labels: Labels, parts: Parts) -> Outcome:
    """Search images whose simulated update is the observed one.

    Args:
        problem: the prepared problem.
        labels: what the simulation uses.
        parts: what to run on.

    Raises:
        AttackFailed: the model has no differentiable path, or the objective is NaN or infinite from
            every start.
    """
    check_differentiable(problem, labels.values)
    width = parts.restarts if parts.optimiser.batched else 1
    run = simulation(problem, labels.values, width)
    observed = list(problem.observed.values())
    penalties = [prior.bind([problem], width) for prior in parts.priors]

    def total(images: Tensor) -> Tensor:
        values = parts.objective(run(images), observed)
        for penalty in penalties:
            values = values + penalty(images)
        return values

    bests: list[_Best] = []
    spent = 0
    for first in range(0, parts.restarts, width):
        starts = [parts.start(problem, labels).to(problem.device) for _ in range(width)]
        best, iterations = _descend(problem, parts, total, torch.stack(starts), first // width)
        bests.append(best)
        spent += iterations * width
        if float(best.totals.min()) <= parts.success:
            break
    totals = torch.cat([best.totals for best in bests])
    chosen = int(totals.argmin())
    if not math.isfinite(float(totals[chosen])):
        raise AttackFailed(f"the objective is NaN or infinite from each of {parts.restarts} starts")
    images = torch.cat([best.images for best in bests])[chosen]
    return Outcome(images, float(totals[chosen]), spent)


def _descend(
    problem: Problem, parts: Parts, total: Callable[[Tensor], Tensor], starts: Tensor, chunk: int
) -> tuple[_Best, int]:
    """Run one chunk of restarts, ``starts`` ``(R, N, C, H, W)``; returns the best and the steps taken."""
    images = starts.clone().requires_grad_()
    optimiser = parts.optimiser.build(images)
    best = _Best(images)
    history: list[float] = []
    width = len(starts)
    chunks = parts.restarts // width

    def closure() -> float:
        totals = total(images)
        best.offer(totals, images)
        loss = totals.sum()
        (images.grad,) = torch.autograd.grad(loss, images)
        # The optimisers take a tensor too, and a float would wait for the device in each iteration.
        return cast(float, loss.detach())

    for iteration in range(parts.iterations):
        for group in optimiser.param_groups:
            group["lr"] = parts.optimiser.rate * parts.schedule(iteration / parts.iterations)
        optimiser.step(closure)
        if parts.box:
            with torch.no_grad():
                images.clamp_(0, 1)
        done = iteration + 1
        if done % parts.check_every == 0 or done == parts.iterations:
            value = float(best.totals.min())
            history.append(value)
            problem.progress.step(chunk * parts.iterations + done, chunks * parts.iterations, value)
            if parts.stopping(history) or not bool(torch.isfinite(images).flatten(1).all(1).any()):
                return best, done
    best.offer(total(images), images)
    return best, parts.iterations
