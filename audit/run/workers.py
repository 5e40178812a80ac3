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
    from fl_audit.run.jobs import Batch

_REPORT_EVERY = 0.2
_PATIENCE = 10.0
"""Seconds for interrupted workers to write their best so far."""

_reports: Any = None
"""In a worker: the queue to the main process."""

_place = "cpu"
"""In a worker: its device."""


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


def run_side_by_side(
    root: Path, batches: list["Batch"], places: list[str], progress: Progress
) -> Iterator["Batch"]:
    """Do ``batches`` in processes of their own; yields each when its results are written.

    The display follows the batch that has run longest. On Ctrl-C the processes write their best so far and
    end; a resumed run does these batches again.

    Args:
        root: the run folder.
        batches: what to do; the processes find each again by its folders.
        places: the device of each process.
        progress: the display.
    """
    # Not fork: torch's thread pool and the display's thread do not survive it.
    context = multiprocessing.get_context("spawn")
    reports, free = context.Queue(), context.Queue()
    for place in places:
        free.put(place)
    pool = ProcessPoolExecutor(min(len(places), len(batches)), context, _start, (reports, free))
    try:
        running: dict[Future[None], Batch] = {pool.submit(_work, root, b): b for b in batches}
        shown = None
        while running:
            done, _ = wait(running, timeout=_REPORT_EVERY, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
                batch = running.pop(future)
                progress.begin(batch.label)  # so that the display counts the batch that is finished
                shown = None
                yield batch
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
            f"an attacking process was killed, perhaps for want of memory ({len(places)} at once). What is "
            f"finished is kept; go on with fewer: set attack.workers in {root / 'config.yaml'}, then "
            f"fl-audit run --resume {root}"
        ) from error
    except BaseException:
        processes = list(pool._processes.values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        end = time.monotonic() + _PATIENCE
        for process in processes:
            process.join(max(end - time.monotonic(), 0.0))
            process.kill()
        raise


def _start(reports: Any, free: Any) -> None:
    global _reports, _place
    _reports, _place = reports, free.get()
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
    signal.signal(signal.SIGTERM, _interrupt)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed main process must not leave its workers behind."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _interrupt(*_: object) -> None:
    """The main process's end, as Ctrl-C: what is running keeps its best so far."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _work(root: Path, batch: "Batch") -> None:
    from fl_audit.run.attack_stage import run_batch
    from fl_audit.run.folder import RunFolder

    folder = RunFolder.open(root)
    try:
        run_batch(folder, folder.load_config(), batch, _Reporter(batch.label), torch.device(_place))
    except KeyboardInterrupt:
        os._exit(0)  # nobody waits for this worker any more
