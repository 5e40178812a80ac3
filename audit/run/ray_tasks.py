"""Attacks as Ray tasks: on the cluster that engine ``ray`` uses for the federation.

Each task gets the captures themselves and gives the reconstructions back, so that the nodes of a cluster need
not share a disk. Ray moves both between processes of ours by its own means; nothing is read from files.
"""

import logging
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch

from fl_audit.attacks import Task
from fl_audit.core.errors import AuditError
from fl_audit.core.types import Reconstruction
from fl_audit.run.attack_stage import load_batch
from fl_audit.run.config import RunConfig
from fl_audit.run.folder import RunFolder
from fl_audit.run.jobs import Batch, Job
from fl_audit.run.results import write_reconstruction

IN_FLIGHT = 4
"""Batches handed to Ray beyond what it runs: enough to keep it busy, few enough to hold in memory."""


def run_on_ray(
    folder: RunFolder, config: RunConfig, batches: list[Batch], device: torch.device
) -> Iterator[Batch]:
    """Do ``batches`` on Ray; yields each when its results are written.

    Raises:
        AuditError: Ray could not be reached, or a task was lost for good.
    """
    import ray

    federation = config.federation
    gpus = 1 if device.type == "cuda" else 0
    try:
        ray.init(
            address=federation.ray_address or "local",
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
            ignore_reinit_error=True,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise AuditError(
            f"Ray at {federation.ray_address or 'this machine'} cannot be used for the attacks: {error}. "
            "What is captured is kept: set federation.engine to local in the run's config.yaml and go on "
            f"with fl-audit attack {folder.root}"
        ) from error
    remote = ray.remote(num_cpus=1, num_gpus=gpus)(_attack)
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    limit = int(max(resources.get("GPU" if gpus else "CPU", 1), 1)) + IN_FLIGHT
    waiting, running = list(batches), dict[Any, tuple[Batch, list[Job]]]()
    try:
        while waiting or running:
            while waiting and len(running) < limit:
                batch = waiting.pop(0)
                tasks, failed = load_batch(folder, config, batch)
                for job, result in failed:
                    write_reconstruction(job.folder, result)
                if not tasks:
                    yield batch
                    continue
                reference = remote.remote(
                    batch.jobs[0].spec, list(tasks.values()), device.type, config.attack.budget
                )
                running[reference] = batch, list(tasks)
            done, _ = ray.wait(list(running), timeout=1.0) if running else ([], [])
            for reference in done:
                batch, owners = running.pop(reference)
                _write(owners, ray.get(reference))
                yield batch
    except ray.exceptions.RayError as error:
        raise AuditError(
            f"an attack on Ray failed: {str(error).splitlines()[-1]}. What is finished is kept; go on with "
            f"fl-audit run --resume {folder.root}"
        ) from error
    finally:
        with suppress(Exception):
            for reference in running:
                ray.cancel(reference, force=True)
        ray.shutdown()


def _attack(spec: str, tasks: list[Task], device: str, budget: float | None) -> list[Reconstruction]:
    """In a Ray worker: one batch."""
    from fl_audit.attacks import attacks

    torch.set_num_threads(1)
    return attacks.create(spec).run_together(tasks, device=torch.device(device), budget=budget)


def _write(owners: list[Job], results: list[Reconstruction]) -> None:
    for job, result in zip(owners, results, strict=True):
        write_reconstruction(job.folder, result)
