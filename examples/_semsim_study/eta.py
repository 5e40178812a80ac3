"""Progress on standard error, with the time when everything will be done."""

import sys
import time
from collections.abc import Callable

from fl_audit.core.progress import Progress

EVERY = 10.0
"""Seconds between two lines."""


class Eta(Progress):
    """Lines that say what runs, how much of the study is done and how long the rest will take.

    Args:
        settings: how many are to be attacked now.
        clock: seconds.
    """

    def __init__(self, settings: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._clock, self._began = settings, clock, clock()
        self._done, self._share, self._said, self._label = 0, 0.0, float("-inf"), ""
        self._before, self._width = 0.0, 1.0

    def begin(self, label: str) -> None:
        """Work begins on ``label``."""
        self._label = label
        self._say()

    def part(self, number: int, of: int) -> None:
        """The attacks of a setting come in parts; part ``number``, from 0, begins."""
        self._before, self._width = number / of, 1 / of

    def step(self, done: int, total: int, value: float | None = None) -> None:
        """The part at hand is at ``done`` of ``total`` iterations."""
        del value
        self._share = self._before + self._width * done / total
        self._say()

    def advance(self) -> None:
        """One setting is finished."""
        self._done, self._share = self._done + 1, 0.0

    def _say(self) -> None:
        now = self._clock()
        if now - self._said < EVERY:
            return
        self._said = now
        finished = (self._done + self._share) / self._settings
        spent = now - self._began
        left = f", about {_duration(spent * (1 / finished - 1))} to go" if finished > 0 else ""
        done = f"{self._done} of {self._settings} settings, {finished:.0%}, {_duration(spent)}{left}"
        sys.stderr.write(f"{done}: {self._label}\n")


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
