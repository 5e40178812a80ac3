"""What `against_breaching.py` found: one attempt after the other, as table and as JSON."""

import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch

SETTLED = 0.1
"""dB from its end within which a course counts as settled."""


@dataclass(frozen=True)
class Attempt:
    """One attack of one side on one update.

    Attributes:
        case: name of the case.
        side: whose attack.
        spec: the attack, by its side's name.
        update: number of the update within the case.
        labels: given or inferred.
        seconds: wall time.
        iterations: optimiser steps.
        psnr: of each image in order, dB; NaN where there is none.
        model: what to know about the model.
        course: ``(iteration, seconds, mean PSNR of the iterate)``, where recorded.
        problem: what went wrong, or None.
    """

    case: str
    side: Literal["breaching", "fl-audit"]
    spec: str
    update: int
    labels: str
    seconds: float
    iterations: int
    psnr: list[float]
    model: str
    course: list[tuple[int, float, float]]
    problem: str | None

    def progress(self) -> str:
        """One line while it runs."""
        values = " ".join(f"{value:.1f}" for value in self.psnr)
        tail = f" ({self.problem})" if self.problem else ""
        return (
            f"{self.case} #{self.update} {self.side} {self.spec}, labels {self.labels}: {values} dB in "
            f"{self.seconds:.1f} s{tail}"
        )

    def passes(self, level: float) -> float:
        """Seconds until the iterate's mean PSNR first is ``level`` dB; NaN if it never is."""
        return next((at for _, at, value in self.course if value >= level), math.nan)

    @property
    def settled(self) -> float:
        """Seconds until the iterate's mean PSNR stays within `SETTLED` dB of its last; NaN if unknown."""
        last = math.nan
        for _, at, value in reversed(self.course):
            if abs(value - self.course[-1][2]) > SETTLED:
                break
            last = at
        return last


@dataclass(frozen=True)
class Row:
    """All attempts of one attack in one case.

    Attributes:
        attempts: one for each update.
    """

    attempts: tuple[Attempt, ...]

    @property
    def seconds(self) -> float:
        """Mean wall time of an update."""
        return mean([attempt.seconds for attempt in self.attempts])

    @property
    def psnr(self) -> float:
        """Mean over all images, dB; NaN if an attempt failed."""
        return mean([value for attempt in self.attempts for value in attempt.psnr])

    @property
    def spec(self) -> str:
        """The attack; where its iterations were fitted to each update, the first one's."""
        return self.attempts[0].spec


def rows(attempts: Sequence[Attempt]) -> dict[str, tuple[Row, list[Row]]]:
    """By case: breaching's row and ours. Attacks are told apart by their place within an update."""
    result: dict[str, tuple[Row, list[Row]]] = {}
    for case in dict.fromkeys(attempt.case for attempt in attempts):
        updates: dict[int, list[Attempt]] = {}
        for attempt in attempts:
            if attempt.case == case:
                updates.setdefault(attempt.update, []).append(attempt)
        theirs, *own = (Row(column) for column in zip(*updates.values(), strict=True))
        result[case] = theirs, own
    return result


def table(attempts: Sequence[Attempt]) -> str:
    """Markdown: one line for each attack in each case."""
    lines = [
        "| case | side | attack | labels | s per update | iterations | mean PSNR, dB | each image, dB "
        "| over breaching, dB | breaching's s / ours |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case, (theirs, own) in rows(attempts).items():
        for row in (theirs, *own):
            first = row.attempts[0]
            each = "; ".join(" ".join(f"{v:.1f}" for v in attempt.psnr) for attempt in row.attempts)
            cells = [
                case,
                first.side,
                f"`{row.spec}`",
                first.labels,
                f"{row.seconds:.1f}",
                f"{mean([attempt.iterations for attempt in row.attempts]):.0f}",
                f"{row.psnr:.2f}",
                each,
                "" if row is theirs else f"{row.psnr - theirs.psnr:+.2f}",
                "" if row is theirs else f"{theirs.seconds / row.seconds:.2f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def verdicts(attempts: Sequence[Attempt]) -> str:
    """For each case in words: who is better, and how soon ours is as good; then what went wrong."""
    lines = []
    for case, (theirs, own) in rows(attempts).items():
        settled = mean([attempt.settled for attempt in theirs.attempts])
        lines.append(
            f"{case}: breaching reaches {theirs.psnr:.2f} dB in {theirs.seconds:.1f} s (its iterate is "
            f"within {SETTLED} dB of its end from {settled:.1f} s on); {theirs.attempts[0].model}."
        )
        for labels in dict.fromkeys(row.attempts[0].labels for row in own):
            reached = [row for row in own if row.attempts[0].labels == labels and row.psnr >= theirs.psnr]
            if not reached:
                row = max((row for row in own if row.attempts[0].labels == labels), key=_finite_psnr)
                lines.append(
                    f"  labels {labels}: none of ours reaches that. The best, {row.spec}, has {row.psnr:.2f} "
                    f"dB after {row.seconds:.1f} s; breaching's iterate passes ours of the same update "
                    f"after {_passes(theirs, row):.1f} s (mean; nan: not on each)."
                )
                continue
            best = min(reached, key=lambda row: row.seconds)
            lines.append(
                f"  labels {labels}: soonest is {best.spec}: {best.psnr:.2f} dB in {best.seconds:.1f} s, "
                f"{theirs.seconds / best.seconds:.1f} times as fast as the whole of breaching's attack, "
                f"{settled / best.seconds:.1f} times as fast as it settles."
            )
    problems = [attempt.progress() for attempt in attempts if attempt.problem]
    return "\n".join([*lines, *(f"! {problem}" for problem in problems)]) + "\n"


def save(
    path: Path, attempts: Sequence[Attempt], arguments: Mapping[str, Any], versions: Mapping[str, str]
) -> None:
    """Everything as JSON, after each attempt so that an interrupted run keeps what it has."""
    settings = {name: value for name, value in arguments.items() if name not in ("breaching_python", "out")}
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    record = {
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit or None,
        "settings": settings,
        "machine": {"cores": os.cpu_count(), "platform": platform.platform()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "breaching_versions": dict(versions),
        "attempts": [_finite(asdict(attempt)) for attempt in attempts],
    }
    path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def mean(values: Sequence[float]) -> float:
    """The mean; NaN if one is or there are none."""
    return sum(values) / len(values) if values else math.nan


def _finite_psnr(row: Row) -> float:
    return row.psnr if math.isfinite(row.psnr) else -math.inf


def _passes(theirs: Row, own: Row) -> float:
    pairs = zip(theirs.attempts, own.attempts, strict=True)
    return mean([one.passes(mean(other.psnr)) for one, other in pairs])


def _finite(value: Any) -> Any:
    """NaN and infinity as null."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
