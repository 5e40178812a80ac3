"""The attack stage: every attack on every capture, one folder each, finished ones skipped.

It reads ``captures/`` and ``knowledge/`` and never ``truth/``; it needs no Flower.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from fl_audit.attacks import Attack, attacks
from fl_audit.core.captures import list_captures, read_update
from fl_audit.core.errors import CaptureError, ConfigError
from fl_audit.core.files import read_json, read_tensors, write_json, write_tensors
from fl_audit.core.progress import Progress
from fl_audit.core.seeding import derive_seed
from fl_audit.core.types import CaptureKey, Reconstruction
from fl_audit.run.config import RunConfig
from fl_audit.run.folder import CONTROL, RunFolder, slugs
from fl_audit.run.grants import read_knowledge

logger = logging.getLogger(__name__)

WORTH_PROCESSES = 20.0
"""Seconds of work from which starting other processes, a few seconds each, pays."""


@dataclass(frozen=True)
class Job:
    """One attack on one capture."""

    key: CaptureKey
    attack: Attack
    spec: str
    folder: Path

    @property
    def label(self) -> str:
        """How the display calls it."""
        return f"{self.key} {self.attack.name}"

    @property
    def result(self) -> Path:
        """Written last: its presence says that the job is finished."""
        return self.folder / "result.json"


def jobs(folder: RunFolder, config: RunConfig) -> list[Job]:
    """All jobs of a run in a fixed order: the control first, then defense, round, client, attack."""
    named = slugs(config.attack.names)
    units = [(spec, attacks.create(spec)) for spec in config.attack.names]
    return [
        Job(key, unit, spec, folder.attack(key, named[spec]))
        for key in _keys(folder, config)
        for spec, unit in units
    ]


def attack_captures(folder: RunFolder, config: RunConfig, progress: Progress, device: torch.device) -> None:
    """Run what is not finished yet. A damaged capture is that capture's failure; the others go on.

    On a CPU every attack computes in one thread, and where there is enough work, one process for each core
    attacks side by side. The results depend on neither.
    """
    todo = jobs(folder, config)
    progress.stage("attack", len(todo))
    waiting = []
    for job in todo:
        if job.result.is_file():
            progress.advance()
        else:
            waiting.append(job)
    workers = config.attack.workers or usable_cores()
    with one_thread(device):
        while waiting:
            job = waiting.pop(0)
            progress.begin(job.label)
            seconds = run_job(folder, config, job, progress, device)
            _finished(job, progress)
            if device.type == "cpu" and workers > 1 and seconds * len(waiting) > WORTH_PROCESSES:
                break
    if waiting:
        from fl_audit.run.workers import run_side_by_side

        for job in run_side_by_side(folder.root, waiting, workers, progress):
            _finished(job, progress)


def run_job(
    folder: RunFolder, config: RunConfig, job: Job, progress: Progress, device: torch.device
) -> float:
    """Do one job and write its result; returns the seconds it took."""
    result = _run(folder, config, job, progress, device)
    write_reconstruction(job.folder, result)
    return result.seconds


def _finished(job: Job, progress: Progress) -> None:
    facts = read_json(job.result)
    if facts["status"] == "failed":
        progress.note(f"{job.key}: {job.attack.name} failed: {facts['reason']}")
    progress.advance()


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Compute in one thread on a CPU: sums are then in the same order on every machine."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write_reconstruction(folder: Path, result: Reconstruction) -> None:
    """Write one reconstruction; ``result.json`` last."""
    if result.images is not None:
        write_tensors(folder / "reconstruction.safetensors", {"images": result.images})
    write_json(folder / "result.json", result.facts())
    write_json(folder / "timing.json", {"seconds": round(result.seconds, 3)})


def read_reconstruction(folder: Path) -> Reconstruction:
    """Read one reconstruction.

    Raises:
        CaptureError: it is missing or damaged.
    """
    path = folder / "result.json"
    facts = read_json(path)
    try:
        images = (
            read_tensors(folder / "reconstruction.safetensors")["images"]
            if facts["status"] == "done"
            else None
        )
        objective = facts["objective"]
        return Reconstruction(
            status=facts["status"],
            images=images,
            labels=None if facts["labels"] is None else torch.tensor(facts["labels"], dtype=torch.int64),
            labels_inferred=facts["labels_inferred"],
            objective=float("nan") if objective is None else objective,
            iterations=facts["iterations"],
            notes=tuple(facts["notes"]),
            reason=facts["reason"],
        )
    except (KeyError, TypeError) as error:
        raise CaptureError(f"{path}: not an attack's result") from error


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU; a device that is not there is a ConfigError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n", 1)[0]
        raise ConfigError(
            f"--device {name!r}: not usable on this machine ({reason}). Try auto or cpu"
        ) from None
    return device


def _keys(folder: RunFolder, config: RunConfig) -> Iterator[CaptureKey]:
    for slug in (CONTROL, *slugs(config.defense_specs()).values()):
        yield from list_captures(folder.captures, slug)


def _run(
    folder: RunFolder, config: RunConfig, job: Job, progress: Progress, device: torch.device
) -> Reconstruction:
    try:
        update = read_update(folder.captures, job.key)
        problem = update.problem()
        if problem is not None:
            return Reconstruction("failed", reason=problem)
        knowledge = read_knowledge(folder.knowledge_file(job.key), job.key)
    except CaptureError as error:
        logger.warning("%s", error)
        return Reconstruction("failed", reason=folder.relative(str(error)))
    # The defense is left out of the seed, so that defenses are compared on the same random starts.
    seed = derive_seed(config.seed, "attack", job.key.round, job.key.client, job.spec)
    try:
        return job.attack.run(update, knowledge, seed=seed, device=device, progress=progress)
    except torch.OutOfMemoryError as error:
        return Reconstruction("failed", reason=f"out of memory on {device}: {str(error).splitlines()[0]}")
