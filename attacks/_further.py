"""What `auto` does with the time that is left after a descent: longer ones, each on the best before it."""

import math
from collections.abc import Sequence
from dataclasses import replace

from fl_audit.attacks.clock import Clock
from fl_audit.attacks.inverting_gradients import STUCK, InvertingGradients, pools_and_is_small
from fl_audit.attacks.parts import Parts
from fl_audit.attacks.problem import Problem
from fl_audit.attacks.simulation import misfit_of
from fl_audit.attacks.starts import Found
from fl_audit.core.types import Reconstruction

PAYS = 0.02
"""Share of the total that a descent must take off: one that does not is followed by one from elsewhere."""

WORTH = 0.1
"""Share of the time that a descent would take in full from which it is begun."""

POLISH = 0.3
"""Share of the smoothness for max pooling that is left in the polish."""

POLISH_STEP = 0.03
"""First step size of the polish, in pixel values: what a longer descent has found is not undone."""

POLISH_TIME = 0.2
"""Share of the time left that is kept for it."""

LOOKS = 3
"""Evaluations that comparing it with what was there before may take, with one to spare."""


class _Resumed(InvertingGradients):
    """The same from the images of `Problem.found`."""

    def _parts(self, problem: Problem) -> Parts:
        return replace(super()._parts(problem), start=Found())


def go_on(
    attack: InvertingGradients,
    problems: Sequence[Problem],
    results: Sequence[Reconstruction],
    *,
    descents: int,
    seconds: float,
) -> list[Reconstruction]:
    """Follow a descent with others, each twice as long as the one before, while there is time and they pay.

    Each begins at the best images so far with half the first step size, which does not undo them, as in
    Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017,
    https://arxiv.org/abs/1608.03983; after one that did not pay the next begins at noise, and if that does
    not pay either, the search is over. What is kept has the lowest total of objective and priors: the
    attacker's own measure.

    Args:
        attack: what was run.
        problems: what it was run on; their clock ends the search, and so does Ctrl-C, with the best so far.
        results: what it made of each.
        descents: most descents for each problem.
        seconds: what ``attack`` took for each.
    """
    best = list(results)
    if not best:
        return best
    polished = any(map(pools_and_is_small, problems))
    clock = problems[0].clock.part(1 - POLISH_TIME if polished else 1.0)
    failures = [0] * len(best)
    for number in range(1, descents + 1):
        anew = attack.model_copy(update={"iterations": attack.iterations * 2**number, "start": "noise"})
        onward = _Resumed.model_construct(**anew.model_dump() | {"step_size": attack.step_size / 2})
        hopeful = [place for place, result in enumerate(best) if failures[place] < 2 and _promises(result)]
        again = [place for place in hopeful if failures[place] == 0]
        elsewhere = [place for place in hopeful if failures[place] == 1]
        for descent, places in ((onward, again), (anew, elsewhere)):
            if not places or clock.over() or clock.left() < WORTH * seconds * len(places) * 2**number:
                continue
            part = clock.part(1.0 if descent is anew else len(again) / len(hopeful))
            made = _made(descent, problems, best, places, part)
            if made is None:
                return best
            for place, result in zip(places, made, strict=True):
                paid = result.objective < (1 - PAYS) * best[place].objective
                failures[place] = 0 if paid else failures[place] + 1
                best[place] = _better(best[place], result)
    return best


def polish(
    attack: InvertingGradients,
    problems: Sequence[Problem],
    results: Sequence[Reconstruction],
    *,
    seconds: float,
) -> list[Reconstruction]:
    """A last descent in small steps and with less smoothness, for small networks that pool by maximum.

    The smoothness that keeps a long descent with large steps from drowning in noise blurs its end. The result
    is kept where it explains the update better.

    Args:
        attack: what was run.
        problems: what it was run on.
        results: what it made of each.
        seconds: what ``attack`` took for each.
    """
    best = list(results)
    places = [p for p, r in enumerate(best) if _promises(r) and pools_and_is_small(problems[p])]
    if not places:
        return best
    clock = problems[0].clock
    if clock.over() or clock.left() < WORTH * seconds * len(places):
        return best
    spare = clock.left() - LOOKS * seconds / attack.iterations * len(places)
    part = Clock(max(spare, 1e-9), clock)
    changes = {"pooled": max(1.0, POLISH * attack.pooled), "step_size": POLISH_STEP}
    finest = _Resumed.model_construct(**attack.model_dump() | changes)
    made = _made(finest, problems, best, places, part)
    if made is None:
        return best
    for place, result in zip(places, made, strict=True):
        problem, one = problems[place], best[place]
        if _misfit(problem, result) < _misfit(problem, one):
            best[place] = replace(result, labels_inferred=one.labels_inferred, notes=one.notes)
        best[place] = replace(best[place], iterations=one.iterations + result.iterations)
    return best


def _made(
    descent: InvertingGradients,
    problems: Sequence[Problem],
    best: Sequence[Reconstruction],
    places: Sequence[int],
    clock: Clock,
) -> list[Reconstruction] | None:
    """What a descent makes of some of the problems, told the best so far; None after Ctrl-C."""
    begun = [replace(problems[p], labels=best[p].labels, found=best[p].images, clock=clock) for p in places]
    try:
        return descent._reconstruct_all(begun)
    except KeyboardInterrupt:
        clock.interrupt()
        return None


def _misfit(problem: Problem, result: Reconstruction) -> float:
    """Relative squared error of the update at the images of ``result``; infinite where there are none."""
    if result.images is None or result.labels is None:
        return math.inf
    return misfit_of(problem, result.images, result.labels)


def _promises(result: Reconstruction) -> bool:
    """Whether there is something to improve on; above that angle only noise is fitted."""
    return result.status == "done" and result.objective <= STUCK.above


def _better(one: Reconstruction, other: Reconstruction) -> Reconstruction:
    """The images with the lower total, and the work of both."""
    steps = one.iterations + other.iterations
    if other.status != "done" or not other.objective < one.objective:
        return replace(one, iterations=steps)
    return replace(one, images=other.images, objective=other.objective, iterations=steps)
