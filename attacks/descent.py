"""One descent of the optimisation loop: all its rows side by side."""

import math
import time
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from fl_audit.attacks.labels import Labels
from fl_audit.attacks.parts import Parts
from fl_audit.attacks.problem import Problem
from fl_audit.attacks.rows import Evaluated, Rows


class _TimeUp(Exception):
    """Another evaluation would outlast the time budget; an optimiser may be in the middle of its step."""


class Descent:
    """Moves the images of every row and keeps the best iterate of each.

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
        self._unsettled: tuple[Tensor, Tensor] | None = None
        self._began, self._seconds, self._evaluations = 0.0, math.inf, 0

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
            self._recall()
        except KeyboardInterrupt:
            self._recall()
            if not bool(torch.isfinite(self.totals).all()):
                raise
            self._problems[0].clock.interrupt()
            self._note(f"interrupted after {max(self._steps)} of {self._parts.iterations} iterations")

    def _run(self, seconds: float) -> None:
        parts, images, clock = self._parts, self._current, self._problems[0].clock
        optimiser = parts.optimiser.build(images)
        iteration, share = 0, 0.0
        self._began, self._seconds, self._evaluations = time.perf_counter(), seconds, 0
        try:
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
                share = max(iteration / parts.iterations, (time.perf_counter() - self._began) / seconds)
                if iteration % parts.check_every == 0 or share >= 1:
                    self._check(iteration)
                if 0 < parts.settled <= share and self._unsettled is None:
                    self._forget()
            if self._active:
                self._offer(self._evaluated())
        except _TimeUp:
            share, iteration = 1.0, max(iteration, 1)
            for row in self._active:
                self._steps[row] = iteration
        if iteration < parts.iterations and share >= 1:
            self._note(f"the time budget ended the search after {iteration} of {parts.iterations} iterations")

    def _note(self, text: str) -> None:
        for problem in self._problems:
            problem.notes.append(text)

    def _closure(self) -> float:
        result = self._evaluated()
        self._offer(result)
        self._evaluations += 1
        spent = time.perf_counter() - self._began
        if self._evaluations > 1 and spent * (1 + 1 / self._evaluations) > self._seconds:
            raise _TimeUp
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

    def _forget(self) -> None:
        """Let the iterates from now on compete among themselves; rows that were given up keep their best."""
        self._unsettled = self.totals.clone(), self.images
        self.totals[self._active] = math.inf

    def _recall(self) -> None:
        """Fall back on earlier iterates where no later one was finite."""
        if self._unsettled is not None:
            totals, images = self._unsettled
            lost = torch.isinf(self.totals)
            self.totals = torch.where(lost, totals, self.totals)
            self.images = torch.where(lost.view(-1, 1, 1, 1, 1), images, self.images)

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
