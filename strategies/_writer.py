"""Writing the captures of a batch on several cores, so that the round goes on the sooner.

Hashing and writing let other threads compute meanwhile. Nothing is copied for it, and nothing outlives the
batch: whoever gets the replies back finds the captures written, and no memory held.
"""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from fl_audit.core.captures import write_sent, write_update
from fl_audit.core.durable import DiskQueue
from fl_audit.core.types import Update

MOST = 4
"""Threads: hashing is as fast as memory allows with these."""


class CaptureWriter:
    """Writes captures below one folder; used by one thread at a time.

    Args:
        root: ``RUN/captures``.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._disk = DiskQueue()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._threads = ThreadPoolExecutor(min(cores, MOST), thread_name_prefix="fl-audit-capture")
        self._running: list[Future[None]] = []

    def write(self, update: Update, digest: str) -> None:
        """Begin to write a capture; ``digest`` is that of the model sent."""
        write_sent(self._root, update, digest, later=self._disk)  # here, lest several threads write it
        self._running.append(
            self._threads.submit(write_update, self._root, update, sent_digest=digest, later=self._disk)
        )

    def finish(self) -> None:
        """Wait until all captures are written.

        Raises:
            OSError: one could not be; the others are.
        """
        running, self._running = self._running, []
        errors = [error for job in running if (error := job.exception()) is not None]
        if errors:
            raise errors[0]

    def drain(self) -> None:
        """Wait until all that was written is on the disk."""
        self._disk.drain()
