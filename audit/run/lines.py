"""One graded attack as lines of ``findings.jsonl``, and its pictures."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from fl_audit.core.images import write_png
from fl_audit.core.types import Reconstruction
from fl_audit.metrics import Metric, RecognisabilityRule, Scores
from fl_audit.reports.schema import Finding, Status, rounded
from fl_audit.run.folder import RunFolder
from fl_audit.run.jobs import Job
from fl_audit.run.originals import Originals
from fl_audit.run.shown import BEYOND, Shown

NO_PARTNER = "the attack returned fewer images than were trained on"


@dataclass(frozen=True)
class Graded:
    """One attack on one capture, scored but not judged yet."""

    job: Job
    truth: Originals | None
    result: Reconstruction
    shown: Shown
    scores: dict[str, Scores]
    client_failed: bool
    reason: str | None
    empty: bool = False
    aggregate_of: int | None = None


@dataclass(frozen=True)
class _Verdict:
    """What the rule says of one image."""

    probability: float
    recognisable: bool


def findings_of(
    folder: RunFolder,
    graded: Graded,
    units: Mapping[str, Metric],
    rule: RecognisabilityRule,
    clients: Sequence[int],
) -> Iterator[Finding]:
    """One line per original; one line without an image for each client whose truth there is not.

    An update that is known to be made of no image has no line: nothing could leak, and nothing failed.
    """
    if graded.empty:
        return
    count = 0 if graded.truth is None else len(graded.truth)
    for client, why in _without_truth(folder, graded, clients).items():
        status: Status | None = "unscored" if graded.result.status == "done" else None
        yield _line(replace(graded, reason=graded.reason or why), client, None, units, status, None)
    if graded.truth is None:
        return
    verdicts: list[_Verdict | None] = [None] * count
    if graded.scores:
        values = {name: scores.values for name, scores in graded.scores.items()}
        both = zip(rule.probability(values).tolist(), rule.judge(values).tolist(), strict=True)
        verdicts = [_Verdict(probability, recognisable) for probability, recognisable in both]
    for image in range(count):
        left_out = bool(graded.shown.beyond[image])
        one = replace(graded, reason=graded.reason or BEYOND) if left_out else graded
        forced: Status | None = "unscored" if left_out else None
        line = _line(one, graded.truth.clients[image], image, units, forced, verdicts[image])
        if bool(graded.shown.drawn[image]):
            line = line.model_copy(update=_pictures(folder, graded, image, line.status))
        yield line


def _without_truth(folder: RunFolder, graded: Graded, clients: Sequence[int]) -> dict[int, str]:
    """Those of ``clients`` whose images are not known, and why."""
    if graded.truth is not None:
        return {client: folder.relative(why) for client, why in graded.truth.missing.items()}
    return dict.fromkeys(clients, graded.reason or "no ground truth to grade against")


def _line(
    graded: Graded,
    client: int,
    image: int | None,
    units: Mapping[str, Metric],
    status: Status | None,
    verdict: _Verdict | None,
) -> Finding:
    truth, result = graded.truth, graded.result
    row = -1 if image is None or not len(graded.shown.partner) else int(graded.shown.partner[image])
    per_image = [name for name, unit in units.items() if unit.per_image]
    values: dict[str, float | None] = dict.fromkeys(per_image)
    reason = graded.reason
    unmeasured = dict.fromkeys(per_image, reason or NO_PARTNER)
    if image is not None and graded.scores:
        values = {name: _number(scores.values[image]) for name, scores in graded.scores.items()}
        why = {name: scores.reasons[image] for name, scores in graded.scores.items()}
        unmeasured = {name: why[name] or "not a number" for name in per_image if values[name] is None}
        reason = reason or ((result.unattempted or NO_PARTNER) if row < 0 else None)
    if status is None:
        if reason is not None:
            tried = result.unattempted is None
            status = (
                "client-failed" if graded.client_failed else "attack-failed" if tried else "not-attempted"
            )
        elif values[RecognisabilityRule.metric] is None:
            status, reason = "unscored", unmeasured[RecognisabilityRule.metric]
        else:
            status = "graded"
    inferred = None if result.labels is None or not 0 <= row < len(result.labels) else int(result.labels[row])
    judged = verdict if status == "graded" else None
    training = None if truth is None else truth.trainings.get(client)
    facts = result.facts()
    return Finding(
        defense=graded.job.key.defense,
        round=graded.job.key.round,
        client=client,
        image=None if truth is None or image is None else truth.places[image],
        aggregate_of=graded.aggregate_of,
        attack=graded.job.spec,
        status=status,
        reason=reason,
        label=None if truth is None or image is None else int(truth.labels[image]),
        label_inferred=inferred,
        train_mode=None if training is None else training.train_mode,
        batch_size=None if training is None else training.batch_size,
        local_steps=None if training is None else training.local_steps,
        metrics=values,
        unmeasured=unmeasured,
        p_recognisable=rounded(judged.probability) if judged else None,
        recognisable=judged.recognisable if judged else None,
        objective=facts["objective"],
        iterations=facts["iterations"],
        notes=facts["notes"],
    )


def _pictures(folder: RunFolder, graded: Graded, image: int, status: Status) -> dict[str, str]:
    """Write original and reconstruction as PNG; their paths, relative to the run folder."""
    place = graded.job.folder
    pictures = {}
    if graded.truth is not None:
        pictures["original"] = (place / f"{image}_ori.png", graded.truth.images[image])
    if status == "graded" and graded.result.images is not None:
        pictures["reconstruction"] = (
            place / f"{image}_rec.png",
            graded.result.images[int(graded.shown.partner[image])],
        )
    for path, pixels in pictures.values():
        write_png(path, pixels)
    return {name: path.relative_to(folder.root).as_posix() for name, (path, _) in pictures.items()}


def _number(value: Tensor) -> float | None:
    number = float(value)
    return rounded(number) if math.isfinite(number) else None
