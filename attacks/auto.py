"""Chooses by itself: exact attacks where theory allows them, then the optimisation that fits the model."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from fl_audit.attacks._further import go_on, polish
from fl_audit.attacks._registry import attacks
from fl_audit.attacks.analytic import Analytic
from fl_audit.attacks.base import Attack
from fl_audit.attacks.dlg import DeepLeakage
from fl_audit.attacks.inverting_gradients import InvertingGradients
from fl_audit.attacks.labels import find_labels
from fl_audit.attacks.loop import optimise
from fl_audit.attacks.noise import noise_share
from fl_audit.attacks.optimisation import OptimisationAttack
from fl_audit.attacks.parts import Parts
from fl_audit.attacks.problem import AttackFailed, Problem
from fl_audit.attacks.r_gap import RGap
from fl_audit.attacks.rows import SMALL_MODEL, is_small
from fl_audit.attacks.simulation import misfit_of, simulate
from fl_audit.attacks.spear import Spear
from fl_audit.attacks.starts import Given
from fl_audit.core.types import Reconstruction

EXACT = 1e-3
"""Share of a layer's gradient, by norm, that exact images may leave unexplained: rounding, nothing else."""

SOLVED = 1e-6
"""Relative squared error of the update at which a closed form needs no refinement."""

WORTH_A_START = 0.1
"""Relative squared error of the update up to which a closed form is a better start than noise."""

DROWNED = 0.5
"""Share of noise in the update from which layer by layer nothing is left of an image; clean ones show 0.1."""

FEW = 8
"""Images used, in all local steps, up to which a small network's update is simulated in milliseconds."""

FIRST_LAYER: tuple[tuple[Attack, str], ...] = (
    (Analytic(), "the first layer is linear and its input explains its gradient"),
    (Spear(), "a linear layer with ReLU sees the images, and their activations explain its gradient"),
)
"""Closed forms on a first linear layer, the cheapest first, and why one was chosen."""


@attacks.register("auto")
class Auto(Attack):
    """The attack an informed attacker would choose, from architecture, batch size, local steps and knowledge.

    First what is exact and cheap: where the first layer is linear and sees the pixels, `analytic` and, for
    several images, `spear`; for one image on a small chain of layers `r-gap`, from whose image `dlg` goes on.
    A solution that explains the update ends the search. Then optimisation: `dlg` on small smooth networks,
    whose solution is accepted where it reproduces the update, else `inverting-gradients`, in descents that
    get longer as long as there is time. Every finding says what was chosen and why.

    Sources: those of the attacks it chooses from. Systematic comparisons of which attack works where: Huang
    et al., "Evaluating Gradient Inversion Attacks and Defenses in Federated Learning", NeurIPS 2021,
    https://arxiv.org/abs/2112.00059.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model", "loss", "num_classes", "image_shape"})
    uses: ClassVar[frozenset[str]] = frozenset({"training", "labels"})
    together: ClassVar[bool] = True
    paper: ClassVar[str] = (
        "the papers of the attacks it chooses; compared in Huang et al., Evaluating Gradient Inversion "
        "Attacks and Defenses in Federated Learning, NeurIPS 2021, https://arxiv.org/abs/2112.00059"
    )
    works: ClassVar[str] = "wherever one of the others does; the finding says which was chosen and why"

    iterations: int = Field(
        300,
        ge=1,
        le=1_000_000,
        description="iterations of the first descent on a network that is no match for dlg",
    )
    further: int = Field(
        6,
        ge=0,
        le=16,
        description="descents that follow at most, each twice as long as the one before, while --budget "
        "leaves time and they pay; without a budget one follows, for few images and a small network only",
    )

    def _reconstruct(self, problem: Problem) -> Reconstruction:
        (result,) = self._reconstruct_all([problem])
        return result

    def _reconstruct_all(self, problems: Sequence[Problem]) -> list[Reconstruction]:
        results: dict[int, Reconstruction] = {}
        for place, problem in enumerate(problems):
            found = self._exact(problem) or self._peeled(problem)
            if found is not None:
                results[place] = found
        smooth = [p for p in range(len(problems)) if p not in results and small_and_smooth(problems[p])]
        for place, result in self._optimised(DeepLeakage(), problems, smooth, share=0.5).items():
            results[place] = _chosen(result, "dlg", "the network is small and smooth")
        hard = [p for p in range(len(problems)) if p not in results or not _solved(results[p])]
        attack = InvertingGradients(iterations=self.iterations)
        began = time.perf_counter()
        first = self._optimised(attack, problems, hard, share=1.0)
        each = (time.perf_counter() - began) / max(len(first), 1)
        for place, result in self._followed(attack, problems, first, each).items():
            if place not in results:
                results[place] = _chosen(result, attack.name, "the network is large or has kinks")
            elif result.status == "done" and result.objective < total_of(
                problems[place], results[place], attack._parts(problems[place])
            ):
                why = "dlg did not reproduce the update, and this fits it better"
                results[place] = _chosen(result, attack.name, why)
        return [results[place] for place in range(len(problems))]

    def _exact(self, problem: Problem) -> Reconstruction | None:
        """The images themselves, where a closed form explains the whole gradient of the first layer."""
        if len(problem.step_sizes) > 1:
            return None
        for attack, why in FIRST_LAYER:
            if attack.max_images is None or problem.num_images <= attack.max_images:
                result = _tried(attack, problem)
                if result is not None and result.objective <= EXACT:
                    return _chosen(result, attack.name, why)
        return None

    def _peeled(self, problem: Problem) -> Reconstruction | None:
        """One image, layer by layer, and from there to the precision of the update."""
        if problem.num_images > 1 or len(problem.step_sizes) > 1 or _weights(problem) > SMALL_MODEL:
            return None
        if noise_share(list(problem.observed.values())) > DROWNED:
            return None
        result = _tried(RGap(rank="unknown"), problem)
        if result is None or result.images is None:
            return None
        labels = find_labels(problem)
        misfit = misfit_of(problem, result.images, labels.values)
        why = "one image, and every layer can be undone"
        if misfit <= SOLVED:
            return _chosen(replace(result, objective=misfit), "r-gap", why)
        if misfit > WORTH_A_START:
            return None
        start = Given(result.images)
        try:
            outcome = optimise(
                problem, labels, replace(DeepLeakage()._parts(problem), start=start, restarts=1)
            )
        except AttackFailed:
            return None
        if outcome.total > DeepLeakage().success:
            return None
        return _chosen(outcome.reconstruction(labels), "r-gap", f"{why}; dlg went on from there")

    def _optimised(
        self, attack: OptimisationAttack, problems: Sequence[Problem], places: Sequence[int], share: float
    ) -> dict[int, Reconstruction]:
        """What an optimisation attack makes of some of the problems in a share of the time that is left."""
        if not places or problems[0].clock.interrupted:
            return {}
        clock = problems[0].clock.part(share)
        found = attack._reconstruct_all([replace(problems[place], clock=clock) for place in places])
        return dict(zip(places, found, strict=True))

    def _followed(
        self,
        attack: InvertingGradients,
        problems: Sequence[Problem],
        first: dict[int, Reconstruction],
        seconds: float,
    ) -> dict[int, Reconstruction]:
        """What becomes of the first descents, ``seconds`` each, by place, as time allows."""
        timed = math.isfinite(problems[0].clock.left())
        worth = [place for place in first if timed or _cheap(problems[place])]
        hard = [problems[place] for place in worth]
        found = [first[place] for place in worth]
        descents = self.further if timed else min(self.further, 1)
        if descents:
            found = go_on(attack, hard, found, descents=descents, seconds=seconds)
            found = polish(attack, hard, found, seconds=seconds)
        return first | dict(zip(worth, found, strict=True))


def small_and_smooth(problem: Problem) -> bool:
    """Whether the squared error of gradients is smooth enough, and small enough, for L-BFGS.

    Where second derivatives vanish or jump, it gets stuck.
    """
    return is_small(problem.model) and not problem.kinked


def total_of(problem: Problem, result: Reconstruction, parts: Parts) -> float:
    """Objective and priors of ``parts`` at the images of ``result``; infinite where there are none.

    It judges what `dlg` found by images as they are returned, in [0, 1], and makes noise that fits a noisy
    update lose by its total variation.
    """
    if result.images is None or result.labels is None:
        return math.inf
    images = result.images.to(problem.device).clamp(0, 1)
    simulated = simulate(problem, images, result.labels.to(problem.device))
    rows = [value[None] for value in simulated.values()]
    total = float(parts.objective(rows, list(problem.observed.values())).detach())
    total += sum(float(prior.bind([problem], 1)(images[None])) for prior in parts.priors)
    return total if math.isfinite(total) else math.inf


def _tried(attack: Attack, problem: Problem) -> Reconstruction | None:
    """What a closed form makes of the problem, or None; its notes stay only if it worked."""
    said = len(problem.notes)
    try:
        result = attack._reconstruct(problem)
    except AttackFailed:
        result = None
    if result is None or result.status != "done":
        del problem.notes[said:]
        return None
    return result


def _solved(result: Reconstruction) -> bool:
    """Whether an exact attack succeeded, or `dlg` reproduced the update."""
    return result.status == "done" and result.objective <= max(EXACT, DeepLeakage().success)


def _cheap(problem: Problem) -> bool:
    """Whether seconds suffice for a longer descent."""
    return is_small(problem.model) and sum(problem.step_sizes) <= FEW and not problem.cohort


def _weights(problem: Problem) -> int:
    return sum(value.numel() for value in problem.parameters.values())


def _chosen(result: Reconstruction, name: str, why: str) -> Reconstruction:
    return replace(result, notes=(*result.notes, f"auto chose {name}: {why}"))
