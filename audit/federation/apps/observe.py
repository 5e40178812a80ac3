"""What the auditor keeps of an app's federation: truth to disk, failures, participation, accuracy."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from flwr.app import Message
from flwr.serverapp import Grid
from torch import Tensor

from fl_audit.core.captures import write_truth
from fl_audit.core.files import write_json
from fl_audit.core.types import CaptureKey, GroundTruth, TrainingDetails
from fl_audit.federation.apps.job import AppJob, Problem, RoundAccuracy
from fl_audit.federation.truth import take
from fl_audit.strategies._content import read_scalars
from fl_audit.strategies.recorder import Keep, Recorded, Recorder, Sent

Operator = Callable[[int, int], tuple[Tensor, Tensor]]
"""The operator's own truth: (client, round) to images ``(N, C, H, W)`` in [0, 1] and labels ``(N,)``."""

Take = Callable[[Grid, dict[int, int], float], dict[int, GroundTruth | str]]
"""Fetches the truth of each node's latest round, as `fl_audit.federation.truth.take` does."""

_SECAGG_STAGES = ("setup", "share_keys", "collect_masked_vectors", "unmask")
"""What Flower's SecAgg+ workflow says in the config of its messages."""

_TIMEOUT = 600.0  # seconds for a client to hand over its truth


class AppObserver:
    """Observes the recording grid of an app (`fl_audit.strategies.Observer`). It never stops the app.

    Args:
        truth: ``RUN/truth``.
        recorder: what writes the captures.
        report: told of each round that begins.
        take: fetches what the clients' witnesses saw.

    Attributes:
        operator: asked for what the witness could not see.
        told_shape: ``(C, H, W)`` of the images that the operator gave.
    """

    operator: Operator | None = None
    told_shape: tuple[int, int, int] | None = None

    def __init__(
        self,
        truth: Path,
        recorder: "BudgetRecorder",
        report: Callable[[int], None],
        take: Take = take,
    ) -> None:
        self.failures: list[Problem] = []
        self.truth_missing: list[Problem] = []
        self.participation: Counter[int] = Counter()
        self.rounds: list[int] = []
        self.training: TrainingDetails | None = None
        self.clients: Mapping[int, int] = {}
        self._accuracy: dict[int, dict[int, float]] = {}
        self._took_part: set[tuple[int, int]] = set()
        self._root, self._recorder, self._report, self._fetch = truth, recorder, report, take

    @property
    def accuracy(self) -> list[RoundAccuracy]:
        """By round, of the rounds in which clients told one."""
        return [RoundAccuracy(round=number, clients=found) for number, found in self._accuracy.items()]

    def trained(self, grid: Grid, recorded: Sequence[Recorded]) -> None:
        """Note failures and participation, fetch and seal the truth of what was captured."""
        secure = self._recorder.secure
        for item in recorded:
            place = item.key.round, item.key.client
            self.participation[item.key.client] += item.arrived and place not in self._took_part
            self._took_part |= {place} if item.arrived else set()
            if item.malformed is not None and not (secure and item.arrived):
                self.failures.append(
                    Problem(round=item.key.round, client=item.key.client, reason=item.malformed)
                )
        number = recorded[0].key.round
        if number not in self.rounds:
            self.rounds.append(number)
            self._report(number)
        wanted = {item.node_id: item.key for item in recorded if item.written and item.arrived}
        if secure:  # clients train in a later step of the round than the one that is captured
            wanted |= {
                item.node_id: item.key
                for item in recorded
                if item.arrived and item.key in self._recorder.wanted
            }
        rounds = {node: key.round for node, key in wanted.items()}
        for node, truth in self._fetch(grid, rounds, _TIMEOUT).items() if wanted else ():
            if isinstance(truth, GroundTruth) or not secure:
                self._seal(wanted[node], truth)

    def evaluated(self, replies: Sequence[Message]) -> None:
        """Keep each client's accuracy on its own test images, for the round that is being evaluated."""
        if not self.rounds:
            return
        found = self._accuracy.setdefault(self.rounds[-1], {})
        for reply in replies:
            value = _accuracy(reply) if reply.has_content() else None
            if value is not None:
                found[self.clients.get(reply.metadata.src_node_id, -1)] = value

    def _seal(self, key: CaptureKey, truth: GroundTruth | str) -> None:
        if not isinstance(truth, str):
            self.training = self.training or truth.training
        elif self.operator is not None:
            truth = self._ask(key, self.operator)
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
    """Says for (round, client) whether it is to be captured.

    By number, not `Recorder`'s first so many: an app of the older API sends messages one at a time.
    """
    rounds = None if job.rounds is None else set(job.rounds)
    attacked = job.attacked

    def keep(number: int, client: int) -> bool:
        return (rounds is None or number in rounds) and (attacked is None or client < attacked)

    return keep


class BudgetRecorder(Recorder):
    """A recorder that writes no more than so many bytes; what does not fit is left out, and said.

    Args:
        out: run folder.
        defense: folder name of the captures.
        keep: says for (round, client) whether the capture is written.
        budget: bytes.

    Attributes:
        wanted: captures that were to be written, whether they fit or not.
        left_out: captures that did not fit.
        secure: whether messages of Flower's SecAgg+ workflow were seen.
    """

    def __init__(self, out: Path, *, defense: str, keep: Keep, budget: int) -> None:
        super().__init__(out, defense=defense, keep=keep)
        self.wanted: set[CaptureKey] = set()
        self.left_out: list[CaptureKey] = []
        self.secure = False
        self._budget, self._written = budget, 0

    def record(self, sent: Sent, reply: Message | None) -> Recorded:
        """As `Recorder.record`, within the budget."""
        with self._lock:
            stage = sent.config.get("stage") in _SECAGG_STAGES
            self.secure = self.secure or stage
            self.wanted |= {sent.key} if sent.kept else set()
            if stage and not sent.model.size:  # a step that agrees on keys, or ends the round
                sent = replace(sent, kept=False)
            elif sent.kept:
                sent = replace(sent, kept=self._fits(sent, reply))
            return super().record(sent, reply)

    def _fits(self, sent: Sent, reply: Message | None) -> bool:
        size = sent.model.size
        if reply is not None and reply.has_content():
            records = reply.content.array_records.values()
            size += sum(len(array.data) for record in records for array in record.values())
        if self._written + size > self._budget:
            self.left_out.append(sent.key)
            return False
        self._written += size
        return True


def _accuracy(reply: Message) -> float | None:
    scalars = read_scalars([*reply.content.metric_records.values(), *reply.content.config_records.values()])
    for name, value in scalars.items():
        if "acc" in name.lower() and isinstance(value, int | float) and 0 <= value <= 1:
            return float(value)
    return None
