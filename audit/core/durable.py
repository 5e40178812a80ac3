"""Files that are whole at once and on the disk a little later: a thread of its own waits for the disk."""

import logging
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

logger = logging.getLogger(__name__)

BEHIND = 64
"""Files that may wait for the disk; whoever writes faster than that waits with them."""


class DiskQueue:
    """Brings files to the disk in one thread, in the order in which they were written.

    What was written is safe from the end of this process from the moment it was written, since the operating
    system has it; the queue is for a power cut, which may find up to `BEHIND` files torn. Readers find out by
    the hashes. The interpreter waits for the queue before it ends.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fl-audit-disk")
        self._free = threading.Semaphore(BEHIND)
        self._pending: set[Future[None]] = set()
        self._lock = threading.Lock()

    def add(self, path: Path) -> None:
        """Bring a file to the disk soon; waits where the disk is far behind."""
        self._free.acquire()
        job = self._thread.submit(self._sync, path)
        with self._lock:
            self._pending = {job, *(other for other in self._pending if not other.done())}

    def drain(self) -> None:
        """Wait until everything that was added is on the disk."""
        with self._lock:
            pending = set(self._pending)
        wait(pending)

    def _sync(self, path: Path) -> None:
        try:
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        except FileNotFoundError:  # replaced or removed since
            pass
        except OSError as error:
            logger.warning("%s is written but may not survive a power cut: %s", path, error)
        finally:
            self._free.release()
