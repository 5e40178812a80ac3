"""Memory and time of an audit with 200 clients of which a tenth takes part in each of 20 rounds (Linux).

python tests/bench/many_clients.py                                  # prints a table
python tests/bench/many_clients.py --out memory                     # and writes memory.csv and memory.svg
python tests/bench/many_clients.py --clients 400 --set model=convnet …

Every value of the configuration can be set by ``--set`` as for ``fl-audit run``. Wanted: it completes, and
memory is flat over the rounds. Memory is the proportional set size of the process and all its children,
sampled every two seconds and at the end of each round (in the other stages: of each job); the largest counts.
"""

import argparse
import csv
import os
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # it is run as a script

from fl_audit.core.progress import Progress  # noqa: E402
from fl_audit.run.load import parse_settings, resolve_config  # noqa: E402
from fl_audit.run.pipeline import finish_run, start_run  # noqa: E402
from tests.bench.default_run import proportional_memory, tree  # noqa: E402

INTERVAL = 2.0
"""Seconds between samples; one takes some milliseconds of a core."""


@dataclass(frozen=True)
class Step:
    """A round, or a job of a later stage."""

    stage: str
    number: int
    seconds: float
    mib: float


class Sampler(Progress):
    """Notes the time and the largest memory of each step; use as a context."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._stage, self._number = "", 0
        self._started = time.monotonic()
        self._peak = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()

    def stage(self, name: str, total: int) -> None:
        self._stage, self._number = name, 0
        print(f"{name}: {total} steps", flush=True)

    def advance(self) -> None:
        now = time.monotonic()
        self._number += 1
        peak = max(self._peak, self._now())
        self.steps.append(Step(self._stage, self._number, now - self._started, peak / 2**20))
        self._started, self._peak = now, 0

    def note(self, text: str) -> None:
        print(text, flush=True)

    def _sample(self) -> None:
        while not self._end.wait(INTERVAL):
            self._peak = max(self._peak, self._now())

    def _now(self) -> int:
        return sum(map(proportional_memory, tree(os.getpid())))


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory over the rounds of a federation of many clients.")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--out", type=Path, help="path of the CSV and the plot, without their endings")
    options = parser.parse_args()
    chosen = {"federation.fraction": 0.1, "data.dataset": "digits", "attack.clients": 3, "attack.rounds": 3}
    chosen |= {"federation.clients": options.clients, "federation.rounds": options.rounds}
    config = resolve_config(None, chosen | parse_settings(options.settings))
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch, Sampler() as sampler:
        folder = start_run(config, Path(scratch) / "run", ["fl-audit", "run"])
        summary = finish_run(folder, sampler)
        pages = [path.stat().st_size for path in folder.root.rglob("*.html")]
    rounds = [step for step in sampler.steps if step.stage == "federation"]
    print("round  seconds  MiB")
    for step in rounds:
        print(f"{step.number:5}  {step.seconds:7.2f}  {step.mib:5.0f} {'#' * round(step.mib / 25)}")
    for stage in ("attack", "grade"):
        rest = [step for step in sampler.steps if step.stage == stage]
        most = max((step.mib for step in rest), default=0)
        print(
            f"{stage}: {sum(step.seconds for step in rest):.0f} s, {len(rest)} jobs, at most {most:.0f} MiB"
        )
    early, late = (sum(step.mib for step in part) / len(part) for part in (rounds[1:6], rounds[-5:]))
    print(f"memory: rounds 2 to 6 {early:.0f} MiB, the last five {late:.0f} MiB ({late / early - 1:+.1%})")
    size, largest = sum(pages) / 2**20, max(pages) / 2**20
    print(f"{len(pages)} pages of {size:.1f} MiB in all, the largest of {largest:.1f} MiB")
    print(f"attacked: {summary.attacked.rule}; clients {summary.attacked.clients}")
    print(f"{time.monotonic() - started:.0f} s in all; load average {os.getloadavg()[0]:.1f}")
    if options.out:
        _write(options.out, sampler.steps)


def _write(out: Path, steps: list[Step]) -> None:
    """``out.csv`` with every step, ``out.svg`` with memory over the steps."""
    with out.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(steps[0])))
        writer.writeheader()
        writer.writerows(asdict(step) for step in steps)
    top = max(step.mib for step in steps) * 1.1
    place = [(40 + 740 * i / max(len(steps) - 1, 1), 280 - 260 * s.mib / top) for i, s in enumerate(steps)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in place)
    ends = [i for i, step in enumerate(steps) if i and step.stage != steps[i - 1].stage]
    marks = "".join(f'<path d="M{place[i][0]:.1f} 20V280" stroke="#ccc"/>' for i in ends)
    names = "".join(f'<text x="{place[i][0]:.1f}" y="296">{steps[i].stage}</text>' for i in [0, *ends])
    out.with_suffix(".svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="800" height="300" font-size="11">'
        f'<text x="2" y="14">{top:.0f} MiB</text><text x="2" y="284">0</text>{marks}{names}'
        f'<polyline points="{line}" fill="none" stroke="#06c" stroke-width="2"/></svg>\n'
    )


if __name__ == "__main__":
    main()
