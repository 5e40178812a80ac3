"""The one optimisation loop: an attack by optimisation is a choice of the `Parts` that it runs on."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_audit.attacks.descent import Descent
from fl_audit.attacks.labels import Labels
from fl_audit.attacks.parts import Parts
from fl_audit.attacks.problem import AttackFailed, Problem
from fl_audit.attacks.rows import merged, sharing
from fl_audit.attacks.simulation import check_differentiable
from fl_audit.core.types import Reconstruction


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
        try:
            check_differentiable(group[0], marks[0].values)
            seconds = group[0].clock.left() * len(places) / (len(problems) - len(results))
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
    descents: list[Descent] = []
    for turn in range(turns):
        descent = Descent(problems, labels, parts, together, turn)
        descent.run((end - time.perf_counter()) / (turns - turn))
        descents.append(descent)
        if descent.succeeded() or _agree(descents, parts.agreement):
            break
        if problems[0].clock.interrupted or time.perf_counter() >= end:
            break
    return [_chosen(descents, client) for client in range(len(problems))]


def _agree(descents: Sequence[Descent], agreement: float) -> bool:
    """Whether the two best restarts, one in each descent, ended at the same total."""
    if len(descents) < 2 or not agreement:
        return False
    first, second = torch.cat([descent.totals for descent in descents]).sort().values[:2].tolist()
    return bool(second <= (1 + agreement) * first)


def _chosen(descents: Sequence[Descent], client: int) -> Outcome | AttackFailed:
    """The best row of one client."""
    totals = torch.cat([descent.totals[descent.rows_of(client)] for descent in descents])
    images = torch.cat([descent.images[descent.rows_of(client)] for descent in descents])
    row = int(totals.argmin())
    if not math.isfinite(float(totals[row])):
        return AttackFailed(f"the objective is NaN or infinite from each of {len(totals)} starts")
    return Outcome(images[row], float(totals[row]), sum(descent.steps_of(client) for descent in descents))
