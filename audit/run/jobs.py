"""What the attack stage has to do: every attack on every capture, in batches that share a model."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch

from fl_audit.attacks import Attack, attacks
from fl_audit.attacks.rows import small_work
from fl_audit.core.captures import list_captures
from fl_audit.core.errors import CaptureError
from fl_audit.core.types import CaptureKey
from fl_audit.run.config import RunConfig
from fl_audit.run.folder import CONTROL, RunFolder, slugs
from fl_audit.run.grants import read_knowledge

CPU_BATCH = 8
"""Clients on one axis on a CPU: beyond this nothing is gained, and the cores should have batches to share."""

CUDA_BATCH = 256
"""Clients on one axis on a GPU at most; the memory bounds how many of them are simulated at once."""


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

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.result.is_file()


@dataclass(frozen=True)
class Batch:
    """Jobs with one attack on the captures of one round of one defense, done in one go."""

    jobs: tuple[Job, ...]

    @property
    def label(self) -> str:
        """How the display calls it."""
        first = self.jobs[0]
        more = f" (+{len(self.jobs) - 1} clients)" if len(self.jobs) > 1 else ""
        return f"{first.key}{more} {first.attack.name}"

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return all(job.finished for job in self.jobs)


def jobs(folder: RunFolder, config: RunConfig) -> list[Job]:
    """All jobs of a run in a fixed order: the control first, then defense, round, client, attack."""
    named = slugs(config.attack.names)
    units = [(spec, attacks.create(spec)) for spec in config.attack.names]
    return [
        Job(key, unit, spec, folder.attack(key, named[spec]))
        for key in _keys(folder, config)
        for spec, unit in units
    ]


def batches(folder: RunFolder, everything: Iterable[Job], device: torch.device) -> list[Batch]:
    """Put jobs that gain from it into batches, in the order of their first jobs.

    Which jobs share a batch depends on the run and on the kind of device only, never on what is finished or
    on the number of cores, so that a resumed run rounds like an uninterrupted one.
    """
    ordered = sorted(enumerate(everything), key=lambda pair: _family(pair[1]))
    found: list[tuple[int, Batch]] = []
    for _, members in groupby(ordered, key=lambda pair: _family(pair[1])):
        family = list(members)
        size = _size(folder, family[0][1], device)
        for first in range(0, len(family), size):
            part = family[first : first + size]
            found.append((part[0][0], Batch(tuple(job for _, job in part))))
    return [batch for _, batch in sorted(found, key=lambda pair: pair[0])]


def _family(job: Job) -> tuple[str, int, str]:
    return job.key.defense, job.key.round, job.spec


def _size(folder: RunFolder, job: Job, device: torch.device) -> int:
    if not job.attack.together:
        return 1
    if device.type == "cuda":
        return CUDA_BATCH
    try:
        knowledge = read_knowledge(folder.knowledge_file(job.key), job.key)
    except CaptureError:
        return 1  # the job itself will say what is wrong
    if knowledge.model is None or knowledge.image_shape is None:
        return 1
    return CPU_BATCH if small_work(knowledge.model, (1, *knowledge.image_shape)) else 1


def _keys(folder: RunFolder, config: RunConfig) -> Iterator[CaptureKey]:
    for slug in (CONTROL, *slugs(config.defense_specs()).values()):
        yield from list_captures(folder.captures, slug)
