"""A process that must not outlive the one that started it."""

import os
import threading
import time
from collections.abc import Callable

_EVERY = 1.0  # seconds between two looks


def when_orphaned(end: Callable[[], object]) -> None:
    """Call ``end``, once, in a thread of its own, when this process's parent is gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_EVERY)
        end()

    threading.Thread(target=watch, name="fl-audit-parent", daemon=True).start()
