"""The one optimisation loop: an attack by optimisation is a choice of the `Parts` that it runs on."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from fl_audit.attacks.labels import Labels
from fl_audit.attacks.objectives import Objective
from fl_audit.attacks.optimisers import Optimiser
from fl_audit.attacks.priors import Prior
from fl_audit.attacks.problem import AttackFailed, Problem
from fl_audit.attacks.rows import Evaluated, Rows, merged, sharing
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
        success: a total at which the client's other restarts are given up.
        agreement: relative difference of the two best restarts, run one after the other, at which the others
            are given up: all end at one floor, as under noise.
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
    agreement: float = 0.0
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
    (outcome,) = optimise_together([problem], [labels], parts)
    if isinstance(outcome, AttackFailed):
        raise outcome
    return outcome


def optimise_together(
    problems: Sequence[Problem], labels: Sequence[Labels], parts: Parts
) -> list[Outcome | AttackFailed]:
    """`optimise` for several clients, on one axis where they share the model and the kind of training."""
    batched = parts.optimiser.batched
    groups = merged(problems) if batched else [[place] for place in range(len(problems))]
    results: dict[int, Outcome | AttackFailed] = {}
    for places in groups:
        group = sharing([problems[place] for place in places])
        marks = [labels[place] for place in places]
        seconds = group[0].clock.left() * len(places) / (len(problems) - len(results))
        try:
            check_differentiable(group[0], marks[0].values)
            found: Sequence[Outcome | AttackFailed] = _group(group, marks, parts, seconds)
        except AttackFailed as error:
            found = [error] * len(group)
        results.update(zip(places, found, strict=True))
    return [results[place] for place in range(len(problems))]


def _group(
    problems: Sequence[Problem], labels: Sequence[Labels], parts: Parts, seconds: float
) -> list[Outcome | AttackFailed]:
    """Run problems that share a model: all restarts side by side, or one after the other."""
    together = parts.restarts if parts.optimiser.batched else 1
    turns = parts.restarts // together
    end = time.perf_counter() + seconds
    descents: list[_Descent] = []
    for turn in range(turns):
        descent = _Descent(problems, labels, parts, together, turn)
        descent.run((end - time.perf_counter()) / (turns - turn))
        descents.append(descent)
        if descent.succeeded() or _agree(descents, parts.agreement):
            break
        if problems[0].clock.interrupted or time.perf_counter() >= end:
            break
    return [_chosen(descents, client) for client in range(len(problems))]


def _agree(descents: Sequence["_Descent"], agreement: float) -> bool:
    """Whether the two best restarts, one in each descent, ended at the same total."""
    if len(descents) < 2 or not agreement:
        return False
    first, second = torch.cat([descent.totals for descent in descents]).sort().values[:2].tolist()
    return bool(second <= (1 + agreement) * first)


def _chosen(descents: Sequence["_Descent"], client: int) -> Outcome | AttackFailed:
    """The best row of one client."""
    totals = torch.cat([descent.totals[descent.rows_of(client)] for descent in descents])
    images = torch.cat([descent.images[descent.rows_of(client)] for descent in descents])
    row = int(totals.argmin())
    if not math.isfinite(float(totals[row])):
        return AttackFailed(f"the objective is NaN or infinite from each of {len(totals)} starts")
    return Outcome(images[row], float(totals[row]), sum(descent.steps_of(client) for descent in descents))


class _Descent:
    """One descent of all its rows side by side, with the best iterate of each row.

    Attributes:
        totals: lowest total of each row, ``(R,)``.
        images: where it was, ``(R, N, C, H, W)`` in [0, 1].
    """

    def __init__(
        self, problems: Sequence[Problem], labels: Sequence[Labels], parts: Parts, restarts: int, turn: int
    ) -> None:
        first = problems[0]
        self._problems, self._parts, self._restarts, self._turn = problems, parts, restarts, turn
        self._rows = Rows(problems, [mark.values for mark in labels], restarts, parts.objective)
        self._penalties = [prior.bind(problems, restarts) for prior in parts.priors]
        starts = [
            parts.start(problem, mark)
            for problem, mark in zip(problems, labels, strict=True)
            for _ in range(restarts)
        ]
        self._current = torch.stack(starts).to(first.device).requires_grad_()
        self._active = list(range(len(starts)))
        self._history: list[list[float]] = [[] for _ in starts]
        self._steps = [0] * len(starts)
        # The best iterates stay on the device, so that the loop never waits for it.
        self.totals = torch.full((len(starts),), math.inf, device=first.device)
        self.images = self._current.detach().clone()

    def rows_of(self, client: int) -> slice:
        """The rows of one client."""
        return slice(client * self._restarts, (client + 1) * self._restarts)

    def steps_of(self, client: int) -> int:
        """Steps of the optimiser, over the client's rows."""
        return sum(self._steps[self.rows_of(client)])

    def succeeded(self) -> bool:
        """Whether every client has a row that needs no further restart."""
        best = self.totals.view(-1, self._restarts).min(1).values
        return bool((best <= self._parts.success).all())

    def run(self, seconds: float) -> None:
        """Descend until the iterations, the time or the hope is spent. Ctrl-C ends it with the best so far.

        Args:
            seconds: how long this descent may take; infinite without a budget.

        Raises:
            KeyboardInterrupt: there is no best yet.
        """
        try:
            self._run(max(seconds, 1e-9))
        except KeyboardInterrupt:
            if not bool(torch.isfinite(self.totals).all()):
                raise
            self._problems[0].clock.interrupt()
            self._note(f"interrupted after {max(self._steps)} of {self._parts.iterations} iterations")

    def _run(self, seconds: float) -> None:
        parts, images, clock = self._parts, self._current, self._problems[0].clock
        optimiser = parts.optimiser.build(images)
        began, iteration, share = time.perf_counter(), 0, 0.0
        while iteration < parts.iterations and share < 1 and self._active and not clock.interrupted:
            for group in optimiser.param_groups:
                group["lr"] = parts.optimiser.rate * parts.schedule(share)
            optimiser.step(self._closure)
            if parts.box:
                with torch.no_grad():
                    images.clamp_(0, 1)
            iteration += 1
            for row in self._active:
                self._steps[row] = iteration
            share = max(iteration / parts.iterations, (time.perf_counter() - began) / seconds)
            if iteration % parts.check_every == 0 or share >= 1:
                self._check(iteration)
        if self._active:
            self._offer(self._evaluated())
        if iteration < parts.iterations and share >= 1:
            self._note(f"the time budget ended the search after {iteration} of {parts.iterations} iterations")

    def _note(self, text: str) -> None:
        for problem in self._problems:
            problem.notes.append(text)

    def _closure(self) -> float:
        result = self._evaluated()
        self._offer(result)
        self._current.grad = result.gradients
        # The optimisers take a tensor too, and a float would wait for the device in each iteration.
        return cast(float, result.totals[self._active].sum())

    def _evaluated(self) -> Evaluated:
        result = self._rows(self._current, self._active)
        if not self._penalties:
            return result
        images = self._current.detach().requires_grad_()
        penalties = torch.stack([penalty(images) for penalty in self._penalties]).sum(0)
        (slope,) = torch.autograd.grad(penalties.sum(), images)
        return Evaluated(result.totals + penalties.detach(), result.gradients + slope)

    def _offer(self, result: Evaluated) -> None:
        """Keep what is better; NaN never is."""
        better = result.totals < self.totals
        self.totals = torch.where(better, result.totals, self.totals)
        self.images = torch.where(
            better.view(-1, 1, 1, 1, 1), self._current.detach().clamp(0, 1), self.images
        )

    def _check(self, iteration: int) -> None:
        """Look at the objective: show it, and give up rows that are done, hopeless or not needed."""
        parts = self._parts
        values = self.totals.tolist()
        finite = torch.isfinite(self._current.detach()).flatten(1).all(1).tolist()
        for row in self._active:
            self._history[row].append(values[row])
        lowest = [min(values[self.rows_of(client)]) for client in range(len(self._problems))]
        self._active = [
            row
            for row in self._active
            if finite[row]
            and not parts.stopping(self._history[row])
            and (
                values[row] == lowest[row // self._restarts] or lowest[row // self._restarts] > parts.success
            )
        ]
        turns = parts.restarts // self._restarts
        self._problems[0].progress.step(
            self._turn * parts.iterations + iteration, turns * parts.iterations, min(lowest)
        )
