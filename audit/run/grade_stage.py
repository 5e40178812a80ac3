"""The grading stage: the only one that opens the sealed truth. It needs no Flower and no data set.

Each original is matched to one reconstruction, each pair is scored by every metric, and what cannot be
scored keeps its line with the reason. Under secure aggregation the originals of all clients of a round are
matched at once; each finding is its client's, and those of clients that are not to be looked at are left out.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fl_audit.core.captures import NoImages, read_update
from fl_audit.core.errors import CaptureError
from fl_audit.core.progress import Progress
from fl_audit.core.types import CaptureKey, Reconstruction
from fl_audit.metrics import Context, Metric, RecognisabilityRule, Scores, match
from fl_audit.reports.schema import (
    Finding,
    RunFacts,
    Summary,
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
from fl_audit.run.lines import NO_PARTNER, Graded, findings_of
from fl_audit.run.negative import negative_control
from fl_audit.run.originals import aggregate_of, looked_at, originals
from fl_audit.run.record import defense_facts
from fl_audit.run.results import read_reconstruction
from fl_audit.run.sets import SetCollector
from fl_audit.run.shown import MOST, RULE, shown


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
        lines = findings_of(folder, graded, units, rule, clients)
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


def _grade(folder: RunFolder, job: Job, units: Mapping[str, Metric], contexts: ContextReader) -> Graded:
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
    return Graded(job, truth, result, chosen, scores, client_failed, reason, empty, together)


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
