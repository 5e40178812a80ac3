"""Attacks that are a choice of parts for the optimisation loop."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from fl_audit.attacks.base import Attack
from fl_audit.attacks.labels import Labels, find_labels
from fl_audit.attacks.loop import Outcome, optimise_together
from fl_audit.attacks.parts import Parts
from fl_audit.attacks.problem import AttackFailed, Problem
from fl_audit.attacks.rows import merged
from fl_audit.core.types import Reconstruction


class OptimisationAttack(Attack):
    """Simulates the client and moves images until the simulated update is the observed one.

    Authors implement `_parts`. Labels that are not granted are inferred; the clients of a round share one
    batch axis.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model", "loss", "num_classes", "image_shape"})
    uses: ClassVar[frozenset[str]] = frozenset({"training", "labels"})
    together: ClassVar[bool] = True

    @abstractmethod
    def _parts(self, problem: Problem) -> Parts:
        """The parts for ``problem`` and for every other client of the same model and training.

        Raises:
            AttackFailed: they cannot work on this model or training.
        """

    def _finish(self, problem: Problem, labels: Labels, outcome: Outcome) -> Reconstruction:
        """What to give back; overridden to say more in the notes."""
        del problem
        return outcome.reconstruction(labels)

    def _reconstruct(self, problem: Problem) -> Reconstruction:
        (result,) = self._reconstruct_all([problem])
        return result

    def _reconstruct_all(self, problems: Sequence[Problem]) -> list[Reconstruction]:
        labels: dict[int, Labels] = {}
        results: dict[int, Reconstruction] = {}
        for place, problem in enumerate(problems):
            try:
                labels[place] = find_labels(problem)
            except AttackFailed as error:
                results[place] = Reconstruction("failed", reason=str(error))
        ready = list(labels)
        for group in merged([problems[place] for place in ready]):
            places = [ready[member] for member in group]
            try:
                parts = self._parts(problems[places[0]])
                found: Sequence[Outcome | AttackFailed] = optimise_together(
                    [problems[place] for place in places], [labels[place] for place in places], parts
                )
            except AttackFailed as error:
                found = [error] * len(places)
            for place, outcome in zip(places, found, strict=True):
                results[place] = (
                    Reconstruction("failed", reason=str(outcome))
                    if isinstance(outcome, AttackFailed)
                    else self._finish(problems[place], labels[place], outcome)
                )
        return [results[place] for place in range(len(problems))]
