"""What the server reads off an update besides images: its size, batch-norm statistics, the mix of labels.

Computed from the captures and from what the threat model grants, never from the truth, and written to
``RUN/seen/DEFENSE/r003-c02.json``. What could not be read off is null with the reason beside it.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fl_audit.attacks import AttackFailed
from fl_audit.attacks.labels import find_labels
from fl_audit.attacks.losses import find_loss
from fl_audit.attacks.problem import prepare
from fl_audit.core.captures import list_captures, read_cohort, read_truth, read_update
from fl_audit.core.errors import AuditError, CaptureError
from fl_audit.core.files import read_model, write_json
from fl_audit.core.knowledge import Knowledge, Sends
from fl_audit.core.progress import Progress
from fl_audit.core.seeding import derive_seed
from fl_audit.core.types import EVERYONE, CaptureKey, Update, num_examples
from fl_audit.reports.schema import rounded
from fl_audit.reports.seen_facts import BatchNormSeen, LabelsMatch, SeenRound
from fl_audit.run.config import RunConfig
from fl_audit.run.folder import RunFolder, slugs
from fl_audit.run.grants import read_knowledge

logger = logging.getLogger(__name__)

_STATISTIC = re.compile(r"(^|\.)running_(mean|var)$")
_COUNTER = re.compile(r"(^|\.)num_batches_tracked$")
_TRACE = re.compile(r"Traceback \(most recent call last\)|File \".+\", line \d+|\bat 0x[0-9a-f]{6,}")

MAX_METRICS = 30
"""Scalars of one reply that are kept by name and value; the capture has all."""


def look_at_captures(folder: RunFolder, config: RunConfig, device: torch.device) -> None:
    """Look at every capture of every defense that was not looked at yet."""
    for slug in slugs(config.defense_specs()).values():
        for key in list_captures(folder.captures, slug):
            path = seen_file(folder, key)
            if not path.is_file():
                write_json(path, _look(folder, config, key, device).model_dump(mode="json"))


def seen_file(folder: RunFolder, key: CaptureKey) -> Path:
    """Where the findings about one capture lie."""
    return folder.root / "seen" / key.defense / f"{key.stem}.json"


def seen_by_client(folder: RunFolder, slug: str) -> dict[int, list[SeenRound]]:
    """For the grader: what was seen of each client of one defense, held against the truth where there is one.

    A capture that nobody looked at, as in a folder attacked by an older version, has its reason.
    """
    found: dict[int, list[SeenRound]] = {}
    for key in list_captures(folder.captures, slug):
        try:
            seen = read_model(seen_file(folder, key), SeenRound, "what was seen of an update")
        except CaptureError as error:
            reason = folder.relative(str(error)) if seen_file(folder, key).exists() else "not looked at yet"
            seen = SeenRound.unknown(key.round, f"{reason}: fl-audit attack RUN looks at the captures")
        for client, of_client in _by_client(folder, key, seen):
            found.setdefault(client, []).append(of_client)
    return found


def _by_client(folder: RunFolder, key: CaptureKey, seen: SeenRound) -> Iterator[tuple[int, SeenRound]]:
    """Whom it was seen of; under secure aggregation, of each client what it sent in clear and no more."""
    if key.client != EVERYONE:
        yield key.client, _compared(folder, key, seen)
        return
    try:
        cohort = read_cohort(folder.captures, key)
    except CaptureError:
        return  # the findings say that the capture is damaged
    for part in cohort:
        hidden = SeenRound.unknown(
            key.round, "secure aggregation: only the mean of the round's updates is seen"
        )
        metrics = dict(list(part.metrics.items())[:MAX_METRICS])
        in_clear = {"num_examples": num_examples(part.metrics), "metrics": metrics}
        yield part.client, SeenRound(**hidden.model_dump() | in_clear)


def _look(folder: RunFolder, config: RunConfig, key: CaptureKey, device: torch.device) -> SeenRound:
    try:
        update = read_update(folder.captures, key)
    except CaptureError as error:
        return SeenRound.unknown(key.round, folder.relative(str(error)))
    norm, why = update_norm(update, config.threat.sends)
    labels, why_not = _infer_labels(folder, config, update, device)
    moved, no_statistics = batch_norm(update)
    told = update.error
    return SeenRound(
        round=key.round,
        num_examples=update.num_examples,
        metrics=dict(list(update.metrics.items())[:MAX_METRICS]),
        error=told,
        stack_trace=bool(told and _TRACE.search(told)),
        update_norm=norm,
        batch_norm=moved,
        labels=labels,
        unmeasured={
            name: reason
            for name, reason in {"update_norm": why, "batch_norm": no_statistics, "labels": why_not}.items()
            if reason is not None
        },
    )


def update_norm(update: Update, sends: Sends | None) -> tuple[float | None, str | None]:
    """Euclidean norm of what the client changed, batch-norm buffers left out, or why there is none.

    Args:
        update: what the server saw.
        sends: what clients send; None: their whole model.
    """
    if update.error is not None:
        return None, "the client sent no update"
    change = _change(update.sent, update.received, sends)
    if not change:
        return None, "no array came back in the shape in which it was sent"
    total = float(torch.stack([value.double().square().sum() for value in change.values()]).sum().sqrt())
    if total != total or total == float("inf"):
        return None, "the update holds NaN or inf"
    return rounded(total), None


def batch_norm(update: Update) -> tuple[BatchNormSeen | None, str | None]:
    """Which running statistics of batch norm came back, and how far they moved; or why there are none."""
    if update.error is not None:
        return None, "the client sent no update"
    names = [name for name in update.sent if _STATISTIC.search(name)]
    if not names:
        return None, "the model has no batch norm with running statistics"
    came = [name for name in names if _alike(update.sent[name], update.received.get(name))]
    moved = {
        name: _relative(update.received[name], update.sent[name])
        for name in came
        if not torch.equal(update.received[name], update.sent[name])
    }
    finite = [value for value in moved.values() if value == value and value != float("inf")]
    counters = [name for name in update.sent if _COUNTER.search(name) and name in update.received]
    steps = {
        int(update.received[name].item()) - int(update.sent[name].item())
        for name in counters
        if update.received[name].numel() == update.sent[name].numel() == 1
        and bool(torch.isfinite(update.received[name].double()).all())
    }
    return (
        BatchNormSeen(
            sent=len(names),
            came=len(came),
            moved=len(moved),
            furthest=rounded(max(finite)) if finite else None,
            steps=steps.pop() if len(steps) == 1 else None,
        ),
        None,
    )


def _infer_labels(
    folder: RunFolder, config: RunConfig, update: Update, device: torch.device
) -> tuple[list[int] | None, str | None]:
    """How many images of each class the update shows, ``(K,)``, the granted labels put aside; or why not."""
    key = update.key
    try:
        knowledge = replace(read_knowledge(folder.knowledge_file(key), key), labels=None)
        return _counts(config, update, knowledge, device), None
    except (AttackFailed, AuditError) as error:
        return None, folder.relative(str(error).split(". ")[0])
    except torch.OutOfMemoryError:
        return None, f"out of memory on {device}"


def _counts(config: RunConfig, update: Update, knowledge: Knowledge, device: torch.device) -> list[int]:
    classes = knowledge.num_classes
    if knowledge.model is None or knowledge.loss is None or classes is None:
        raise AttackFailed("the threat model does not grant the architecture, the loss and the classes")
    problem = prepare(
        update,
        knowledge,
        seed=derive_seed(config.seed, "labels", update.key.round, update.key.client),
        who="label inference",
        device=device,
        progress=Progress(),
        loss=find_loss(knowledge.loss, "label inference"),
    )
    values = find_labels(problem).values
    return torch.bincount(values.cpu(), minlength=classes).tolist()


def _compared(folder: RunFolder, key: CaptureKey, seen: SeenRound) -> SeenRound:
    """The same with the inferred labels held against the true ones, of each different image once."""
    if seen.labels is None:
        return seen
    try:
        truth = read_truth(folder.truth, key).unique()
    except CaptureError:
        return seen
    true = torch.bincount(truth.labels, minlength=len(seen.labels))
    guessed = torch.tensor(seen.labels)
    if len(true) != len(guessed):
        return seen
    shared = int(torch.minimum(true, guessed).sum())
    match = LabelsMatch(right=shared, images=int(true.sum()), exact=bool(torch.equal(true, guessed)))
    return seen.model_copy(update={"labels_match": match})


def _change(
    sent: Mapping[str, Tensor], received: Mapping[str, Tensor], sends: Sends | None
) -> dict[str, Tensor]:
    whole = sends in (None, "weights")
    return {
        name: value.double() - sent[name].double() if whole else value.double()
        for name, value in received.items()
        if name in sent
        and _alike(sent[name], value)
        and value.dtype.is_floating_point
        and not _STATISTIC.search(name)
    }


def _alike(sent: Tensor, received: Tensor | None) -> bool:
    return received is not None and received.shape == sent.shape


def _relative(received: Tensor, sent: Tensor) -> float:
    """Norm of the change over that of what was sent; over 1 where that was 0."""
    norm = float(sent.double().norm())
    return float((received.double() - sent.double()).norm()) / (norm if norm > 0 else 1.0)
