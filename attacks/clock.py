"""How long an attack may go on: its time budget, and Ctrl-C."""

import math
import time


class Clock:
    """Runs from its creation.

    Args:
        budget: seconds that all work under this clock may take; None: any.
        parent: the clock that this one is a part of: neither outlasts it, and Ctrl-C ends both.
    """

    def __init__(self, budget: float | None = None, parent: "Clock | None" = None) -> None:
        self._end = math.inf if budget is None else time.perf_counter() + budget
        self._parent = parent
        self._interrupted = False

    def part(self, share: float) -> "Clock":
        """A clock for a first phase, which may take ``share`` of the time that is left."""
        return Clock(self.left() * share, self)

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C was pressed in a loop that kept its best so far."""
        return self._interrupted or (self._parent is not None and self._parent.interrupted)

    def interrupt(self) -> None:
        """End all further work: what there is is returned."""
        self._interrupted = True
        if self._parent is not None:
            self._parent.interrupt()

    def left(self) -> float:
        """Seconds left; infinite without a budget, and a tiny positive number when it is spent."""
        own = max(self._end - time.perf_counter(), 1e-9)
        return own if self._parent is None else min(own, self._parent.left())

    def over(self) -> bool:
        """Whether nothing more should be begun."""
        return self.interrupted or self.left() <= 1e-9
