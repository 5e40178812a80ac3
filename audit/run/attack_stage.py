"""The attack stage: every attack on every capture, one folder each, finished ones skipped.

It reads ``captures/`` and ``knowledge/`` and never ``truth/``; it needs no Flower.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fl_audit.attacks import AttackInterrupted, Task
from fl_audit.core.captures import read_update
from fl_audit.core.errors import CaptureError, ConfigError
from fl_audit.core.files import read_json
from fl_audit.core.progress import Progress
from fl_audit.core.seeding import derive_seed
from fl_audit.core.types import Reconstruction
from fl_audit.run.config import RunConfig
from fl_audit.run.folder import RunFolder
from fl_audit.run.grants import read_knowledge
from fl_audit.run.jobs import Batch, Job, batches, jobs
from fl_audit.run.results import write_partial, write_reconstruction
from fl_audit.run.seen import look_at_captures
from fl_audit.run.weights import own_code

logger = logging.getLogger(__name__)

WORTH_PROCESSES = 20.0
"""Seconds of work from which starting other processes, a few seconds each, pays."""


def attack_captures(folder: RunFolder, config: RunConfig, progress: Progress, device: torch.device) -> None:
    """Run what is not finished yet. A damaged capture is that capture's failure; the others go on.

    On a CPU every attack computes in one thread, and where there is enough work, one process for each core
    attacks side by side; several GPUs get a process each, and with engine ``ray`` the batches go to Ray. The
    results depend on none of this. Ctrl-C keeps the best so far of what is running.
    """
    with one_thread(device), own_code(folder.root, config.threat.loss):
        look_at_captures(folder, config, device)
    todo = batches(folder, jobs(folder, config), device)
    progress.stage("attack", sum(len(batch.jobs) for batch in todo))
    waiting = []
    for batch in todo:
        if batch.finished:
            _advance(batch, progress)
        else:
            waiting.append(batch)
    if config.federation.engine == "ray" and waiting:
        from fl_audit.run.ray_tasks import run_on_ray

        for batch in run_on_ray(folder, config, waiting, device):
            _finished(batch, progress)
        return
    places = places_for(device, config.attack.workers)
    with one_thread(device):
        while waiting:
            batch = waiting.pop(0)
            progress.begin(batch.label)
            seconds = run_batch(folder, config, batch, progress, device)
            _finished(batch, progress)
            if len(places) > 1 and seconds * len(waiting) > WORTH_PROCESSES:
                break
    if waiting:
        from fl_audit.run.workers import run_side_by_side

        for batch in run_side_by_side(folder.root, waiting, places, progress):
            _finished(batch, progress)


def run_batch(
    folder: RunFolder, config: RunConfig, batch: Batch, progress: Progress, device: torch.device
) -> float:
    """Do one batch and write its results; returns the seconds it took.

    Raises:
        AttackInterrupted: Ctrl-C; the best so far is written.
    """
    tasks, failed = load_batch(folder, config, batch)
    for job, result in failed:
        write_reconstruction(job.folder, result)
    if not tasks:
        return 0.0
    attack = batch.jobs[0].attack
    try:
        with own_code(folder.root, config.threat.loss):
            results = attack.run_together(
                list(tasks.values()), device=device, progress=progress, budget=config.attack.budget
            )
    except AttackInterrupted as interrupted:
        for job, result in zip(tasks, interrupted.results, strict=True):
            write_partial(job.folder, result)
        raise
    except torch.OutOfMemoryError as error:
        reason = f"out of memory on {device}: {str(error).splitlines()[0]}"
        results = [Reconstruction("failed", reason=reason)] * len(tasks)
    for job, result in zip(tasks, results, strict=True):
        write_reconstruction(job.folder, result)
    return sum(result.seconds for result in results)


def load_batch(
    folder: RunFolder, config: RunConfig, batch: Batch
) -> tuple[dict[Job, Task], list[tuple[Job, Reconstruction]]]:
    """The tasks of a batch, and the jobs that failed before they began."""
    tasks: dict[Job, Task] = {}
    failed = []
    for job in batch.jobs:
        try:
            update = read_update(folder.captures, job.key)
            knowledge = read_knowledge(folder.knowledge_file(job.key), job.key)
        except (
            CaptureError,
            ConfigError,
        ) as error:  # a damaged file, or an app's model that is not to be had
            logger.warning("%s", error)
            failed.append((job, Reconstruction("failed", reason=folder.relative(str(error)))))
            continue
        # The defense is left out of the seed, so that defenses are compared on the same random starts.
        seed = derive_seed(config.seed, "attack", job.key.round, job.key.client, job.spec)
        tasks[job] = Task(update, knowledge, seed)
    return tasks, failed


def places_for(device: torch.device, workers: int | None) -> list[str]:
    """The device of each process that may attack side by side."""
    if device.type == "cpu":
        return ["cpu"] * (workers or usable_cores())
    if str(device) == "cuda":  # no particular one
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return [str(device)]


def _finished(batch: Batch, progress: Progress) -> None:
    for job in batch.jobs:
        facts = read_json(job.result)
        if facts["status"] == "failed":
            progress.note(f"{job.key}: {job.attack.name} failed: {facts['reason']}")
    _advance(batch, progress)


def _advance(batch: Batch, progress: Progress) -> None:
    for _ in batch.jobs:
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
