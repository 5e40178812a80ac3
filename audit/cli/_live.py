"""What the terminal shows while an audit runs: bars where there is a terminal, else plain lines."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from fl_audit.core.progress import Progress

REDRAW_SECONDS = 0.1
PLAIN_SECONDS = 2.0

Clock = Callable[[], float]


@contextmanager
def live_progress(console: Console | None = None) -> Iterator[Progress]:
    """A display for the length of the block; what was shown as done stays when it ends."""
    console = console or Console(highlight=False)
    if not console.is_terminal:
        yield PlainProgress(console)
        return
    with _bars(console) as bars:
        display = LiveProgress(bars)
        yield display
        display.close()


def plain(text: str, limit: int = 400) -> str:
    """One printable line: client text must not steer the terminal."""
    line = "".join(char if char.isprintable() else " " for char in text)
    return line if len(line) <= limit else f"{line[: limit - 1]}\N{HORIZONTAL ELLIPSIS}"


class PlainProgress(Progress):
    """At most one line for a finished unit, and no more than one every other second; notes in full."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._stage, self._label, self._value = "", "", ""
        self._done = self._total = 0
        self._said = float("-inf")

    def stage(self, name: str, total: int) -> None:
        """Forget the last stage."""
        self._stage, self._total, self._done = name, total, 0
        self._label = self._value = ""
        self._said = float("-inf")

    def begin(self, label: str) -> None:
        """Remember the unit for its closing line."""
        self._label, self._value = label, ""

    def step(self, done: int, total: int, value: float | None = None) -> None:
        """Remember the objective for the closing line."""
        del done, total
        self._value = "" if value is None else f"  objective {value:.4g}"

    def advance(self) -> None:
        """Say so, unless the last line is too fresh and more is to come."""
        self._done += 1
        now = self._clock()
        if self._done == self._total or now - self._said >= PLAIN_SECONDS:
            self._said = now
            self._say(f"{self._stage} {self._done}/{self._total}  {self._label}{self._value}")

    def note(self, message: str) -> None:
        """Print it."""
        self._say(f"note: {message}")

    def _say(self, line: str) -> None:
        self._console.print(Text(plain(line).rstrip()), soft_wrap=True)


class LiveProgress(Progress):
    """A bar for the stage and one for the current unit, with the time left and the objective."""

    def __init__(self, bars: Bars, clock: Clock = time.monotonic) -> None:
        self._bars = bars
        self._clock = clock
        self._stage: TaskID | None = None
        self._unit: TaskID | None = None
        self._drawn = float("-inf")

    def stage(self, name: str, total: int) -> None:
        """Leave the finished stage's bar standing and open the next."""
        self.close()
        self._stage = self._bars.add_task(plain(name), total=total, detail="", kind="stage")

    def begin(self, label: str) -> None:
        """Open the bar of a unit."""
        self._drop_unit()
        self._unit = self._bars.add_task(plain(f"  {label}", 60), total=None, detail="", kind="unit")
        self._drawn = float("-inf")

    def step(self, done: int, total: int, value: float | None = None) -> None:
        """Move the unit's bar; calls that come faster than the screen are dropped."""
        now = self._clock()
        if self._unit is None or (now - self._drawn < REDRAW_SECONDS and done < total):
            return
        self._drawn = now
        detail = "" if value is None else f"objective {value:.4g}"
        self._bars.update(self._unit, completed=done, total=total, detail=detail)

    def advance(self) -> None:
        """Move the stage's bar. The unit's stays: with several at work, another one may have finished."""
        if self._stage is not None:
            self._bars.advance(self._stage)

    def note(self, message: str) -> None:
        """Print it above the bars, where it stays."""
        self._bars.console.print(Text(f"note: {plain(message)}", style="yellow"), soft_wrap=True)

    def close(self) -> None:
        """The last stage is over."""
        self._drop_unit()
        if self._stage is not None:
            self._bars.stop_task(self._stage)
        self._stage = None

    def _drop_unit(self) -> None:
        if self._unit is not None:
            self._bars.remove_task(self._unit)
        self._unit = None


class _Counts(ProgressColumn):
    """``3/12`` for a stage, ``240/600`` for the iterations of a unit, nothing while unknown."""

    def __init__(self) -> None:
        super().__init__()
        self._counts = MofNCompleteColumn()

    def render(self, task: Task) -> Text:
        """Render one task."""
        return Text("") if task.total is None else self._counts.render(task)


class _Left(ProgressColumn):
    """The time that is left; nothing while unknown or when done."""

    def render(self, task: Task) -> Text:
        """Render one task."""
        if task.time_remaining is None or task.finished:
            return Text("")
        minutes, seconds = divmod(round(task.time_remaining), 60)
        hours, minutes = divmod(minutes, 60)
        return Text(f"{hours}:{minutes:02d}:{seconds:02d} left", style="dim")


def _bars(console: Console) -> Bars:
    return Bars(
        SpinnerColumn(finished_text="\N{CHECK MARK}"),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        _Counts(),
        TimeElapsedColumn(),
        _Left(),
        TextColumn("{task.fields[detail]}", style="cyan", markup=False),
        console=console,
        refresh_per_second=8,
    )
