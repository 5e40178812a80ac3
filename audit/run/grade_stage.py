"""The grading stage: the only one that opens the sealed truth. It needs no Flower and no data set.

Each original is matched to one reconstruction, each pair is scored by every metric, and what cannot be
scored keeps its line with the reason. Under secure aggregation the originals of all clients of a round are
matched at once; each finding is its client's, and those of clients that are not to be looked at are left out.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fl_audit.core.captures import NoImages, read_update
from fl_audit.core.errors import CaptureError
from fl_audit.core.images import write_png
from fl_audit.core.progress import Progress
from fl_audit.core.types import CaptureKey, Reconstruction
from fl_audit.metrics import Context, Metric, RecognisabilityRule, Scores, match
from fl_audit.reports.schema import (
    Finding,
    RunFacts,
    Status,
    Summary,
    rounded,
    write_findings,
    write_summary,
)
from fl_audit.reports.summarise import summarise
from fl_audit.run.chosen import chosen_metrics
from fl_audit.run.config import RunConfig
from fl_audit.run.context import ContextReader
from fl_audit.run.facts import guess_facts, read_scene, run_facts
from fl_audit.run.folder import CONTROL, RunFolder, slugs
from fl_audit.run.jobs import Job, jobs
from fl_audit.run.negative import negative_control
from fl_audit.run.originals import Originals, aggregate_of, looked_at, originals
from fl_audit.run.record import defense_facts
from fl_audit.run.results import read_reconstruction
from fl_audit.run.sets import SetCollector
from fl_audit.run.shown import BEYOND, MOST, RULE, Shown, shown

NO_PARTNER = "the attack returned fewer images than were trained on"


@dataclass(frozen=True)
class _Graded:
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


def grade_run(folder: RunFolder, config: RunConfig, progress: Progress) -> Summary:
    """Grade everything that was attacked; write the PNGs, ``findings.jsonl`` and ``summary.json``."""
    units = chosen_metrics(config.grade.metrics, RecognisabilityRule.metric)
    todo = jobs(folder, config)
    negative = negative_control(folder, config, units)
    rule = RecognisabilityRule(negative.values(RecognisabilityRule.metric))
    contexts = ContextReader(folder, config, read_scene(folder.scene).dataset, units.values())
    sets = SetCollector(units)
    progress.stage("grade", len(todo))
    findings: list[Finding] = []
    limited = False
    for job in todo:
        progress.begin(job.label)
        graded = _grade(folder, job, units, contexts)
        limited = limited or len(graded.shown.drawn) > MOST
        clients = looked_at(folder, job.key, config)
        lines = _findings(folder, graded, units, rule, clients)
        findings.extend(line for line in lines if line.client in clients)
        if graded.truth is not None and graded.result.images is not None and graded.scores:
            paired = graded.shown.partner >= 0
            images = graded.result.images[graded.shown.partner[paired]]
            sets.add(job.key.defense, job.spec, graded.truth.images[paired], images)
        progress.advance()
    names = {slug: spec for spec, slug in slugs(config.defense_specs()).items()} | {CONTROL: CONTROL}
    findings = [finding.model_copy(update={"defense": names[finding.defense]}) for finding in findings]
    write_findings(folder.findings, findings)
    facts = _without_unmeasured(run_facts(folder, config, units, rule), findings)
    if limited:
        facts = facts.model_copy(update={"limit": RULE})
    summary = summarise(
        findings,
        facts,
        [
            defense.model_copy(update={"sets": sets.scores(defense.slug)})
            for defense in defense_facts(folder, config)
        ],
        guess_facts(negative, rule),
    )
    write_summary(folder.summary, summary)
    return summary


def _without_unmeasured(facts: RunFacts, findings: Sequence[Finding]) -> RunFacts:
    """The facts with every metric that no graded image has a score of declared unavailable, and why."""
    graded = [finding for finding in findings if finding.status == "graded"]
    declared = []
    for metric in facts.metrics:
        reasons = Counter(finding.unmeasured.get(metric.name) for finding in graded)
        reason = reasons.most_common(1)[0][0] if reasons and None not in reasons else None
        if reason is None or metric.unavailable is not None:
            declared.append(metric)
        else:
            declared.append(metric.model_copy(update={"unavailable": reason}))
    return facts.model_copy(update={"metrics": declared})


def _grade(folder: RunFolder, job: Job, units: Mapping[str, Metric], contexts: ContextReader) -> _Graded:
    truth, result, reason, empty = None, Reconstruction("failed"), None, False
    try:
        result = read_reconstruction(job.folder)
    except CaptureError as error:
        reason = f"not attacked: {error}" if job.result.exists() else "not attacked yet"
        result = Reconstruction("failed", unattempted=None if job.result.exists() else reason)
    try:
        truth = originals(folder, job.key)
    except NoImages:
        empty = True
    except CaptureError as error:
        reason = reason or result.reason or f"no ground truth to grade against: {error}"
    reason = reason or result.reason
    reason = folder.relative(reason) if reason else None
    scores: dict[str, Scores] = {}
    chosen = shown(torch.full((0 if truth is None else len(truth),), -1, dtype=torch.int64))
    if truth is not None and result.images is not None and reason is None:
        if result.images.shape[1:] != truth.images.shape[1:]:
            reason = (
                f"the reconstruction has shape {tuple(result.images.shape[1:])}, "
                f"the originals {tuple(truth.images.shape[1:])}"
            )
        else:
            chosen = shown(match(truth.images, result.images))
            context = contexts.read(job.key, truth)
            scores = _scores(truth.images, result.images, chosen.partner, units, context)
    client_failed = reason is not None and _client_failed(folder, job.key)
    together = aggregate_of(folder, job.key)
    return _Graded(job, truth, result, chosen, scores, client_failed, reason, empty, together)


def _scores(
    originals: Tensor, images: Tensor, partner: Tensor, units: Mapping[str, Metric], context: Context
) -> dict[str, Scores]:
    """Per-image scores by metric; NaN with a reason where an original has no partner."""
    kept = partner >= 0
    paired = torch.nonzero(kept).flatten()
    scores = {}
    for name, unit in units.items():
        if unit.per_image:
            values = torch.full((len(originals),), math.nan, dtype=torch.float64)
            reasons: list[str | None] = [NO_PARTNER] * len(originals)
            if len(paired):
                graded = unit.grade(originals[paired], images[partner[paired]], context.rows(kept))
                values[paired] = graded.values
                for row, reason in zip(paired.tolist(), graded.reasons, strict=True):
                    reasons[row] = reason
            scores[name] = Scores(values, tuple(reasons))
    return scores


def _client_failed(folder: RunFolder, key: CaptureKey) -> bool:
    try:
        return read_update(folder.captures, key).error is not None
    except CaptureError:
        return False


def _findings(
    folder: RunFolder,
    graded: _Graded,
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


def _without_truth(folder: RunFolder, graded: _Graded, clients: Sequence[int]) -> dict[int, str]:
    """Those of ``clients`` whose images are not known, and why."""
    if graded.truth is not None:
        return {client: folder.relative(why) for client, why in graded.truth.missing.items()}
    return dict.fromkeys(clients, graded.reason or "no ground truth to grade against")


def _line(
    graded: _Graded,
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


def _pictures(folder: RunFolder, graded: _Graded, image: int, status: Status) -> dict[str, str]:
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
