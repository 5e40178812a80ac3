"""What every attack shares: checking what it is granted, seeding, timing, and honest failure."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch

from fl_audit.attacks.clock import Clock
from fl_audit.attacks.losses import find_loss, mean_cross_entropy
from fl_audit.attacks.problem import AttackFailed, Problem, prepare
from fl_audit.core.errors import ConfigError, KnowledgeError
from fl_audit.core.knowledge import Knowledge
from fl_audit.core.progress import Progress
from fl_audit.core.registry import Unit
from fl_audit.core.types import Reconstruction, Update

__all__ = ["Attack", "AttackFailed", "AttackInterrupted", "Task"]


@dataclass(frozen=True)
class Task:
    """One update to attack.

    Attributes:
        update: what the server saw.
        knowledge: what the threat model grants; its model is copied, never changed.
        seed: equal seeds give equal results on one machine.
    """

    update: Update
    knowledge: Knowledge
    seed: int


class AttackInterrupted(KeyboardInterrupt):
    """Ctrl-C in an attack that keeps its best so far.

    Attributes:
        results: what there is, one for each task.
    """

    def __init__(self, results: Sequence[Reconstruction]) -> None:
        super().__init__()
        self.results = tuple(results)


class Attack(Unit, ABC):
    """An attack by name. Authors implement `_reconstruct`; `run` does everything around it.

    Attributes:
        needs: names of the fields of `Knowledge` without which the attack is refused.
        uses: names of the fields that make it stronger where they are granted.
        paper: authors, year, title, venue, link.
        works: for which models, batch sizes and local steps it works, in a sentence or two.
        together: whether several clients' updates of one model gain from being attacked in one go.
        max_images: most images in an update that it can reconstruct; None: any number.
    """

    needs: ClassVar[frozenset[str]]
    uses: ClassVar[frozenset[str]] = frozenset()
    paper: ClassVar[str]
    works: ClassVar[str]
    together: ClassVar[bool] = False
    max_images: ClassVar[int | None] = None

    @final
    def run(
        self,
        update: Update,
        knowledge: Knowledge,
        *,
        seed: int,
        device: torch.device,
        progress: Progress | None = None,
        budget: float | None = None,
    ) -> Reconstruction:
        """Attack one update.

        Args:
            update: what the server saw.
            knowledge: what the threat model grants; its model is copied, never changed.
            seed: equal seeds give equal results on one machine, unless the time budget ends the attack.
            device: where to compute; the result is on the CPU.
            progress: told the iterations and the objective now and then.
            budget: seconds that it may take, to the nearest iteration, for each client whose update it is;
                None: any.

        Returns:
            Images in [0, 1] as the attacker would choose them, or status ``"failed"`` with the reason:
            an update that cannot be attacked, a model that the attack does not work on, or an objective
            that is NaN from every start.

        Raises:
            KnowledgeError: the threat model does not grant what the attack needs, or grants a loss that is
                neither cross-entropy nor a function of yours.
            ConfigError: the architecture granted is not the one that the server sent.
            AttackInterrupted: Ctrl-C; it holds the best so far.
        """
        task = Task(update, knowledge, seed)
        (result,) = self._attacked([task], device, progress or Progress(), budget, strict=True)
        return result

    @final
    def run_together(
        self,
        tasks: Sequence[Task],
        *,
        device: torch.device,
        progress: Progress | None = None,
        budget: float | None = None,
    ) -> list[Reconstruction]:
        """Attack several updates, those of one model on one batch axis where the attack can.

        As `run` for each, with ``budget`` seconds for each client; a failure of one leaves the others alone,
        also where its update does not fit its model, and ``seconds`` are an equal share of the whole.
        """
        return self._attacked(tasks, device, progress or Progress(), budget, strict=False)

    def _attacked(
        self,
        tasks: Sequence[Task],
        device: torch.device,
        progress: Progress,
        budget: float | None,
        *,
        strict: bool,
    ) -> list[Reconstruction]:
        start = time.perf_counter()
        clients = sum(max(1, len(task.knowledge.cohort)) for task in tasks)
        clock = Clock(None if budget is None else budget * clients)
        results: list[Reconstruction | None] = [None] * len(tasks)
        problems: dict[int, Problem] = {}
        for place, task in enumerate(tasks):
            try:
                found = self._prepared(task, device, progress, clock)
            except KnowledgeError:
                raise
            except ConfigError as error:
                if strict:
                    raise
                found = Reconstruction("failed", reason=str(error))
            if isinstance(found, Problem):
                problems[place] = found
            else:
                results[place] = found
        if problems:
            made = self._reconstruct_all(list(problems.values()))
            for (place, problem), result in zip(problems.items(), made, strict=True):
                left_out = problem.left_out if result.status == "done" else result.unattempted
                notes = (*problem.notes, *result.notes)
                results[place] = _checked(replace(result, notes=notes, unattempted=left_out))
        share = (time.perf_counter() - start) / max(len(tasks), 1)
        done = [replace(result, seconds=share) for result in results if result is not None]
        if clock.interrupted:
            raise AttackInterrupted(done)
        return done

    def _prepared(
        self, task: Task, device: torch.device, progress: Progress, clock: Clock
    ) -> Problem | Reconstruction:
        """The problem, or the failed result."""
        task.knowledge.require(self.needs, self.name)
        loss = task.knowledge.loss
        known = mean_cross_entropy if loss is None or "loss" not in self.needs else find_loss(loss, self.name)
        try:
            problem = prepare(
                task.update,
                task.knowledge,
                seed=task.seed,
                who=self.name,
                device=device,
                progress=progress,
                loss=known,
            )
        except AttackFailed as error:
            return Reconstruction("failed", reason=str(error))
        if self.max_images is not None and problem.num_images > self.max_images:
            most = "one image" if self.max_images == 1 else f"{self.max_images} images"
            reason = f"{self.name} reconstructs {most} at most; the client used {problem.num_images}"
            return Reconstruction("failed", reason=reason, notes=tuple(problem.notes), unattempted=reason)
        return replace(problem, clock=clock)

    def _reconstruct_all(self, problems: Sequence[Problem]) -> list[Reconstruction]:
        """Reconstruct several problems; attacks that gain from one batch axis override it."""
        results = []
        for problem in problems:
            try:
                results.append(self._reconstruct(problem))
            except AttackFailed as error:
                results.append(Reconstruction("failed", reason=str(error)))
        return results

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
