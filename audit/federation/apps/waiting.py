"""Servers that wait for more nodes than there are, as Flower's do for ever: told from those that work."""

import functools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from flwr.server import SimpleClientManager

WAITING = 60.0
"""Seconds to wait for nodes that do not come."""

PAUSE = 15.0
"""Seconds between two questions for nodes within which a server counts as asking all the time."""


class AppWaits(RuntimeError):
    """The app's server waits for nodes that do not come."""


class Patience:
    """Follows how long a server has been asking for nodes without doing anything else.

    Args:
        limit: seconds of asking after which it waits in vain.
    """

    def __init__(self, limit: float) -> None:
        self._limit, self._pause = limit, min(PAUSE, limit / 2)
        self._server = threading.get_ident()
        self._since, self._last = 0.0, -PAUSE

    def asked(self) -> bool:
        """Note a question; whether it is one too many.

        Only those of the thread that made this count: Flower's older API asks in another all the time.
        """
        if threading.get_ident() != self._server:
            return False
        now = time.monotonic()
        if now - self._last > self._pause:
            self._since = now
        self._last = now
        return self.over()

    def worked(self) -> None:
        """Note that a message went out or was handled: whoever asks after it has only begun to."""
        self._last = -PAUSE

    def over(self) -> bool:
        """Whether the server has asked all the time for longer than the limit, up to now."""
        return self._last - self._since > self._limit and time.monotonic() - self._last <= self._pause


@contextmanager
def impatient(limit: float) -> Iterator[None]:
    """Inside the block, Flower's older API raises `AppWaits` where it would wait longer for clients.

    It waits a day by default, in a way that nothing can interrupt. ``limit`` is in seconds.
    """
    original = SimpleClientManager.wait_for

    @functools.wraps(original)
    def wait_for(self: SimpleClientManager, num_clients: int, timeout: int = 86400) -> bool:
        if original(self, num_clients, min(timeout, limit)):  # type: ignore[arg-type]  # a fraction will do
            return True
        if timeout <= limit:
            return False
        raise AppWaits(waits_in_vain(str(self.num_available())))

    SimpleClientManager.wait_for = wait_for  # type: ignore[method-assign]  # of the class: Flower makes one
    try:
        yield
    finally:
        SimpleClientManager.wait_for = original  # type: ignore[method-assign]  # as it was


def waits_in_vain(there: str) -> str:
    """What is said of a server that waits for more nodes than ``there`` are."""
    return (
        "the server app keeps asking for nodes and sends nothing: it seems to wait for more than the "
        f"{there} that there are (min_available_nodes, min_available_clients). Give as many as it wants: "
        "--clients N"
    )
