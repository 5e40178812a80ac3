"""How long an attack may go on: its time budget, and Ctrl-C."""

import math
import time


class Clock:
    """Runs from its creation.

    Args:
        budget: seconds that all work under this clock may take; None: any.
    """

    def __init__(self, budget: float | None = None) -> None:
        self._end = math.inf if budget is None else time.perf_counter() + budget
        self._interrupted = False

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C was pressed in a loop that kept its best so far."""
        return self._interrupted

    def interrupt(self) -> None:
        """End all further work: what there is is returned."""
        self._interrupted = True

    def left(self) -> float:
        """Seconds left; infinite without a budget, and a tiny positive number when it is spent."""
        return max(self._end - time.perf_counter(), 1e-9)

    def over(self) -> bool:
        """Whether nothing more should be begun."""
        return self._interrupted or time.perf_counter() >= self._end
