"""Attacks side by side: one single-threaded process for each core, each writing its own results."""

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fl_audit.core.errors import AuditError
from fl_audit.core.progress import Progress

if TYPE_CHECKING:
    from fl_audit.run.attack_stage import Job

_REPORT_EVERY = 0.2

_reports: Any = None
"""In a worker: the queue to the main process."""


class _Reporter(Progress):
    """Sends the state of one job to the main process, a few times a second."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._next = 0.0

    def step(self, done: int, total: int, value: float | None = None) -> None:
        """As `Progress.step`."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _REPORT_EVERY
            _reports.put((self._label, done, total, value))


def run_side_by_side(root: Path, jobs: list["Job"], workers: int, progress: Progress) -> Iterator["Job"]:
    """Do ``jobs`` in processes of their own; yields each when its result is written.

    The display follows the job that has run longest. Ctrl-C ends the processes at once; what they have not
    written is done again by a resumed run.

    Args:
        root: the run folder.
        jobs: what to do; the processes find each again by its folder.
        workers: how many processes at most.
        progress: the display.
    """
    # Not fork: torch's thread pool and the display's thread do not survive it.
    context = multiprocessing.get_context("spawn")
    reports = context.Queue()
    pool = ProcessPoolExecutor(min(workers, len(jobs)), context, _start, (reports,))
    try:
        running: dict[Future[None], Job] = {pool.submit(_work, root, job): job for job in jobs}
        shown = None
        while running:
            done, _ = wait(running, timeout=_REPORT_EVERY, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
                job = running.pop(future)
                progress.begin(job.label)  # so that the display counts the job that is finished
                shown = None
                yield job
            oldest = next(iter(running.values())).label if running else None
            if oldest is not None and oldest != shown:
                progress.begin(oldest)
                shown = oldest
            with suppress(queue.Empty):
                while True:
                    label, *state = reports.get_nowait()
                    if label == shown:
                        progress.step(*state)
        pool.shutdown()
    except BrokenProcessPool as error:
        raise AuditError(
            f"an attacking process was killed, perhaps for want of memory ({workers} at once). What is "
            f"finished is kept; go on with fewer: set attack.workers in {root / 'config.yaml'}, then "
            f"fl-audit run --resume {root}"
        ) from error
    except BaseException:
        for process in list(pool._processes.values()):
            process.terminate()
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def _start(reports: Any) -> None:
    global _reports
    _reports = reports
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed main process must not leave its workers behind."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(root: Path, job: "Job") -> None:
    from fl_audit.run.attack_stage import run_job
    from fl_audit.run.folder import RunFolder

    folder = RunFolder.open(root)
    run_job(folder, folder.load_config(), job, _Reporter(job.label), torch.device("cpu"))
