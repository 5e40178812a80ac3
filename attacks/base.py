"""What every attack shares: checking what it is granted, seeding, timing, and honest failure."""

import time
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import ClassVar, final

import torch

from fl_audit.attacks.problem import AttackFailed, Problem, prepare
from fl_audit.core.errors import KnowledgeError
from fl_audit.core.progress import Progress
from fl_audit.core.registry import Unit
from fl_audit.core.types import Knowledge, Reconstruction, Update

__all__ = ["Attack", "AttackFailed"]


class Attack(Unit, ABC):
    """An attack by name. Authors implement `_reconstruct`; `run` does everything around it.

    Attributes:
        needs: names of the fields of `Knowledge` without which the attack is refused.
        uses: names of the fields that make it stronger where they are granted.
        paper: authors, year, title, venue, link.
    """

    needs: ClassVar[frozenset[str]]
    uses: ClassVar[frozenset[str]] = frozenset()
    paper: ClassVar[str]

    @final
    def run(
        self,
        update: Update,
        knowledge: Knowledge,
        *,
        seed: int,
        device: torch.device,
        progress: Progress | None = None,
    ) -> Reconstruction:
        """Attack one update.

        Args:
            update: what the server saw.
            knowledge: what the threat model grants; its model is copied, never changed.
            seed: equal seeds give equal results on one machine.
            device: where to compute; the result is on the CPU.
            progress: told the iterations and the objective now and then.

        Returns:
            Images in [0, 1] as the attacker would choose them, or status ``"failed"`` with the reason:
            an update that cannot be attacked, a model that the attack does not work on, or an objective
            that is NaN from every start.

        Raises:
            KnowledgeError: the threat model does not grant what the attack needs, or the loss is not
                cross-entropy.
            ConfigError: the architecture granted is not the one that the server sent.
        """
        knowledge.require(self.needs, self.name)
        if "loss" in self.needs and knowledge.loss != "cross-entropy":
            raise KnowledgeError(
                f"attack {self.name!r} simulates training with the loss 'cross-entropy', and the threat "
                f"model says that the clients use {knowledge.loss!r}. Choose an attack that needs no loss"
            )
        start = time.perf_counter()
        reason = update.problem()
        if reason is not None:
            return Reconstruction("failed", reason=reason, seconds=time.perf_counter() - start)
        try:
            problem = prepare(
                update, knowledge, seed=seed, who=self.name, device=device, progress=progress or Progress()
            )
            result = self._reconstruct(problem)
        except AttackFailed as error:
            result = Reconstruction("failed", reason=str(error))
        else:
            result = _checked(replace(result, notes=(*problem.notes, *result.notes)))
        return replace(result, seconds=time.perf_counter() - start)

    @abstractmethod
    def _reconstruct(self, problem: Problem) -> Reconstruction:
        """Reconstruct the images of a prepared problem. Raise `AttackFailed` with a reason if you cannot."""


def _checked(result: Reconstruction) -> Reconstruction:
    """Images as the interface promises them: on the CPU, float32, finite, in [0, 1]."""
    if result.images is None:
        return result
    images = result.images.detach().to("cpu", torch.float32)
    if not bool(torch.isfinite(images).all()):
        return Reconstruction("failed", reason="the reconstruction is not finite", notes=result.notes)
    labels = None if result.labels is None else result.labels.detach().cpu()
    return replace(result, images=images.clamp(0, 1), labels=labels)
