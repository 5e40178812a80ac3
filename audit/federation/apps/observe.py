"""What the auditor keeps of an app's federation: truth to disk, failures, participation, accuracy."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from flwr.app import Message
from flwr.serverapp import Grid
from torch import Tensor

from fl_audit.core.captures import write_truth
from fl_audit.core.files import write_json
from fl_audit.core.types import CaptureKey, GroundTruth, TrainingDetails
from fl_audit.federation.apps.accuracy import ReportedAccuracy
from fl_audit.federation.apps.job import AppJob, Problem, Protection
from fl_audit.federation.apps.live import not_the_mean
from fl_audit.federation.apps.protections import of_strategies
from fl_audit.federation.truth import take
from fl_audit.federation.witness import UNSEEN
from fl_audit.strategies._sent import Sent
from fl_audit.strategies.recorder import Keep, Recorded, Recorder

Operator = Callable[[int, int], tuple[Tensor, Tensor]]
"""The operator's own truth: (client, round) to images ``(N, C, H, W)`` in [0, 1] and labels ``(N,)``."""

Take = Callable[[Grid, dict[int, int], float], dict[int, GroundTruth | str]]
"""Fetches the truth of each node's latest round, as `fl_audit.federation.truth.take` does."""

_TIMEOUT = 600.0  # seconds for a client to hand over its truth


class AppObserver:
    """Observes the recording grid of an app (`fl_audit.strategies.Observer`). It never stops the app.

    Args:
        truth: ``RUN/truth``.
        report: told of each round that begins.
        take: fetches what the clients' witnesses saw.

    Attributes:
        operator: asked for what the witness could not see.
        told_shape: ``(C, H, W)`` of the images that the operator gave.
        own: how the app protects its clients by itself, as far as it was found.
        accuracy: what the app reports of its model.
    """

    operator: Operator | None = None
    told_shape: tuple[int, int, int] | None = None

    def __init__(self, truth: Path, report: Callable[[int], None], take: Take = take) -> None:
        self.failures: list[Problem] = []
        self.truth_missing: list[Problem] = []
        self.participation: Counter[int] = Counter()
        self.rounds: list[int] = []
        self.training: TrainingDetails | None = None
        self.clients: Mapping[int, int] = {}
        self.own: list[Protection] = []
        self.accuracy = ReportedAccuracy()
        self._took_part: set[tuple[int, int]] = set()
        self._root, self._report, self._fetch = truth, report, take

    def trained(self, grid: Grid, recorded: Sequence[Recorded]) -> None:
        """Note failures and participation, fetch and seal the truth of what was captured."""
        for item in recorded:
            place = item.key.round, item.key.client
            self.participation[item.key.client] += item.arrived and place not in self._took_part
            self._took_part |= {place} if item.arrived else set()
            if item.malformed is not None:
                self.failures.append(
                    Problem(round=item.key.round, client=item.key.client, reason=item.malformed)
                )
        number = recorded[0].key.round
        if number not in self.rounds:
            self.rounds.append(number)
            self.own += [found for found in of_strategies() if found not in self.own]  # alive in a round
            self.accuracy.look()
            self._report(number)
        wanted = {
            item.node_id: item.key for item in recorded if (item.written or item.masked) and item.arrived
        }
        rounds = {node: key.round for node, key in wanted.items()}
        for node, truth in self._fetch(grid, rounds, _TIMEOUT).items() if wanted else ():
            self._seal(wanted[node], truth)

    def evaluated(self, replies: Sequence[Message]) -> None:
        """Keep each client's accuracy on its own test images, for the round that is being evaluated."""
        if self.rounds:
            self.accuracy.replied(self.rounds[-1], self.clients, replies)

    def _seal(self, key: CaptureKey, truth: GroundTruth | str) -> None:
        if not isinstance(truth, str):
            self.training = self.training or truth.training
        elif self.operator is not None:
            truth = self._ask(key, self.operator)
        if truth == UNSEEN:
            truth = f"{truth}; its images and labels can be given: --truth module:function"
        if isinstance(truth, str):
            self.truth_missing.append(Problem(round=key.round, client=key.client, reason=truth))
            write_json(self._root / key.defense / f"{key.stem}.json", {"unavailable": truth})
            return
        write_truth(self._root, key, truth)

    def _ask(self, key: CaptureKey, operator: Operator) -> GroundTruth | str:
        """The truth as the operator gives it; how the client trained is not known then."""
        try:
            images, labels = operator(key.client, key.round)
            images = torch.as_tensor(images).detach().cpu().float()
            labels = torch.as_tensor(labels).detach().cpu().long()
        except Exception as error:  # the operator's code
            return f"--truth failed: {type(error).__name__}: {error}"
        if images.ndim != 4 or images.shape[1] not in (1, 3) or labels.shape != images.shape[:1]:
            return (
                "--truth: expected images (N, 1 or 3, H, W) and labels (N,), got "
                f"{tuple(images.shape)} and {tuple(labels.shape)}"
            )
        if not (float(images.min()) >= 0 and float(images.max()) <= 1):
            return f"--truth: expected images in [0, 1], got {images.min():.3g} to {images.max():.3g}"
        self.told_shape = self.told_shape or (images.shape[1], images.shape[2], images.shape[3])
        zeros = torch.zeros(len(images), dtype=torch.int64)
        details = TrainingDetails(batch_size=len(images))
        return GroundTruth(images, labels, zeros, zeros - 1, details)


def kept(job: AppJob) -> Keep:
    """Says for (round, client) whether it may be captured; which clients, `BudgetRecorder` chooses."""
    rounds = None if job.rounds is None else set(job.rounds)
    return lambda number, client: rounds is None or number in rounds


def recorder_for(job: AppJob) -> "BudgetRecorder":
    """What writes the captures of a job."""
    return BudgetRecorder(
        Path(job.out),
        defense=job.slug,
        keep=kept(job),
        budget=job.disk,
        most=job.attacked,
        not_the_mean=not_the_mean,
    )


class BudgetRecorder(Recorder):
    """A recorder that writes no more than so many bytes; what does not fit is left out, and said.

    Args:
        out: run folder.
        defense: folder name of the captures.
        keep: says for (round, client) whether the capture is written.
        budget: bytes.
        most: clients whose captures are kept of each round, those with the lowest numbers of the ones that
            take part in it; None: all. Messages may come one at a time, as in Flower's older API.
        not_the_mean: see `Recorder`.

    Attributes:
        left_out: captures that did not fit.
        latest: round of the latest messages.
    """

    def __init__(
        self,
        out: Path,
        *,
        defense: str,
        keep: Keep,
        budget: int,
        most: int | None = None,
        not_the_mean: Callable[[], str | None] | None = None,
    ) -> None:
        super().__init__(out, defense=defense, keep=keep, clients=most, not_the_mean=not_the_mean)
        self.latest = 0
        self._dropped: set[CaptureKey] = set()
        self.left_out: list[CaptureKey] = []
        self._budget, self._written = budget, 0

    def snapshot(self, messages: Iterable[Message]) -> list[Sent]:
        """As `Recorder.snapshot`."""
        sent = super().snapshot(messages)
        self.latest = sent[0].key.round if sent else self.latest
        return sent

    def wants(self, client: int) -> bool:
        """Whether what a client does in the latest round is to be captured."""
        if self._keep is not None and not self._keep(self.latest, client):
            return False
        # A sum is that of all its clients, and so is what is known of them.
        every = self._most is None or self.secure.seen
        return every or client in self._chosen.get(self.latest, ())

    def discard(self, *roots: Path) -> None:
        """Remove what was kept until clients with lower numbers came, below ``roots``."""
        for key in self._dropped:
            for root in roots:
                for ending in ("json", "safetensors"):
                    (root / key.defense / f"{key.stem}.{ending}").unlink(missing_ok=True)

    def _choose(self, key: CaptureKey) -> bool:
        chosen = self._chosen.setdefault(key.round, set())
        if self._most is None or len(chosen) < self._most or key.client >= max(chosen):
            return super()._choose(key)
        if key.client in chosen:
            return True
        last = max(chosen)
        chosen.remove(last)
        self._dropped.add(replace(key, client=last))
        return super()._choose(key)

    def _fits(self, key: CaptureKey, size: int) -> bool:
        if self._written + size > self._budget:
            self.left_out.append(key)
            return False
        self._written += size
        return True
