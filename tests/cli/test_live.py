import io

import pytest
from rich.console import Console
from rich.progress import Progress as Bars

from fl_audit.cli._live import LiveProgress, PlainProgress, live_progress, plain
from fl_audit.core.progress import Progress


class Ticker:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=terminal, width=120, highlight=False), file


def test_without_a_terminal_there_are_plain_lines() -> None:
    out, file = console(terminal=False)
    with live_progress(out) as progress:
        assert isinstance(progress, PlainProgress)
        progress.stage("attack", 2)
        progress.begin("dp r001-c00 inverting-gradients")
        progress.step(1, 10, 0.5)
        progress.step(10, 10, 0.125)
        progress.advance()
        progress.begin("dp r001-c01 inverting-gradients")
        progress.advance()
    assert file.getvalue().splitlines() == [
        "attack 1/2  dp r001-c00 inverting-gradients  objective 0.125",
        "attack 2/2  dp r001-c01 inverting-gradients",
    ]


def test_plain_lines_are_throttled_and_the_last_is_kept() -> None:
    out, file = console(terminal=False)
    clock = Ticker()
    progress = PlainProgress(out, clock)
    progress.stage("grade", 100)
    for number in range(100):
        clock.now = number * 0.1
        progress.begin(f"unit {number}")
        progress.advance()
    lines = file.getvalue().splitlines()
    assert 5 <= len(lines) <= 7
    assert lines[0].startswith("grade 1/100")
    assert lines[-1].startswith("grade 100/100")


def test_the_terminal_shows_stage_unit_and_objective() -> None:
    out, file = console(terminal=True)
    with live_progress(out) as progress:
        assert isinstance(progress, LiveProgress)
        progress.stage("attack", 2)
        progress.begin("dp r001-c00 [bold]inverting-gradients")
        progress.step(5, 10, 0.125)
        progress.note("a [red]note")
    said = file.getvalue()
    assert "attack" in said
    assert "a [red]note" in said


def test_the_stage_moves_and_the_unit_stays_until_the_next_begins() -> None:
    out, _ = console(terminal=True)
    clock = Ticker()
    bars = Bars(console=out, auto_refresh=False)
    progress = LiveProgress(bars, clock)
    progress.stage("attack", 2)
    progress.begin("one")
    progress.step(1, 4, 0.5)
    clock.now = 0.01
    progress.step(2, 4, 0.4)  # faster than the screen: dropped
    assert [(task.completed, task.fields["detail"]) for task in bars.tasks] == [(0, ""), (1, "objective 0.5")]
    progress.step(4, 4, 0.3)  # the last is never dropped
    assert bars.tasks[1].completed == 4
    progress.advance()
    assert [(task.description, task.completed) for task in bars.tasks] == [("attack", 1), ("  one", 4)]
    progress.begin("two")
    assert [task.description for task in bars.tasks] == ["attack", "  two"]
    progress.stage("grade", 1)
    progress.advance()
    progress.close()
    assert [task.description for task in bars.tasks] == ["attack", "grade"]


def test_an_error_leaves_the_block_and_closes_the_display() -> None:
    out, _ = console(terminal=True)

    def fail(progress: Progress) -> None:
        progress.stage("attack", 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), live_progress(out) as progress:
        fail(progress)
    assert not out._live_stack


def test_calls_before_any_stage_are_harmless() -> None:
    out, _ = console(terminal=True)
    with live_progress(out) as progress:
        progress.step(1, 2)
        progress.advance()


def test_client_text_cannot_steer_the_terminal() -> None:
    assert plain("a\x1b[2J\r\nb") == "a [2J  b"
    assert len(plain("x" * 1000)) == 400
