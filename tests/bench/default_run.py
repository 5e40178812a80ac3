"""Wall time and peak memory of an audit, all its processes together (Linux).

python tests/bench/default_run.py                      # the README's figures: fl-audit run --defense dp
python tests/bench/default_run.py --clients 10 …       # any other arguments of fl-audit run
"""

import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path


def main() -> None:
    arguments = sys.argv[1:] or ["--defense", "dp"]
    with tempfile.TemporaryDirectory() as folder:
        command = "from fl_audit.cli.main import main; main()"
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-c", command, "run", *arguments, "--out", f"{folder}/run"],
            stdout=subprocess.DEVNULL,
        )
        peak, processes = 0, 0
        while process.poll() is None:
            pids = tree(process.pid)
            peak, processes = max(peak, sum(map(proportional_memory, pids))), max(processes, len(pids))
            time.sleep(0.2)
        wall = time.monotonic() - started
    print(f"fl-audit run {' '.join(arguments)}: exit {process.returncode}, {wall:.0f} s wall, ", end="")
    print(f"peak {peak / 2**30:.2f} GiB over {processes} processes (proportional set size)")


def tree(pid: int) -> list[int]:
    """``pid`` and all its descendants."""
    children: list[str] = []
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():  # any of them may have started a process
            with suppress(OSError):  # a thread may end while it is looked at
                children += (thread / "children").read_text().split()
    except OSError:
        return []
    return [pid, *(inner for child in children for inner in tree(int(child)))]


def proportional_memory(pid: int) -> int:
    """Bytes of a process, memory shared with others counted in shares; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


if __name__ == "__main__":
    main()
