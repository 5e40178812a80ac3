"""What interception costs: one Flower app with and without ``audited(...)``, side by side (Linux).

python tests/bench/interception_overhead.py                      # ResNet-50, 10 clients: some minutes
python tests/bench/interception_overhead.py --clients 3 --batches 1 --repetitions 1

Wanted: under 5% of a round's time, and under one copy of the model in memory. Every repetition runs both in
processes of their own, the order alternating. Each trains torchvision's ResNet-50 (25.6 million parameters)
by Flower's FedAvg: in a round every client makes one pass over ``--batches`` batches of 32 random images of
32x32 pixels. CIFAR-10 among 10 clients would be 157 batches; the default of 16 is a tenth of it, so that the
share of interception is overstated. What interception costs is told in two ways: by whole rounds and whole
processes, which on a busy machine is mostly noise, and by what happens between the audited grid and the grid
below it, which is interception and nothing else. It does not depend on how long clients train.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from torch import nn
from torch.nn.functional import cross_entropy
from torchvision.models import resnet50

from fl_audit.federation._flwr_private import task_identity
from fl_audit.federation.local_engine import LocalGrid
from fl_audit.federation.server_app import quiet_flower
from fl_audit.strategies import audited
from fl_audit.strategies._proxy import GridProxy

BATCH, PIXELS = 32, 32

WANTED = 0.05
"""Share of a round that interception may take."""


def main() -> None:
    options = _options()
    if options.worker:
        print(json.dumps(_worker(options)))
        return
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
    pairs = []
    for repetition in range(options.repetitions):
        order = ("bare", "audited") if repetition % 2 == 0 else ("audited", "bare")
        pair = {name: _run(name) for name in order}
        pairs.append((pair["bare"], pair["audited"]))
        print("  ".join(f"{name}: {_words(run)}" for name, run in sorted(pair.items())), flush=True)
    inside, inside_cpu = (
        statistics.median(run[part] / (run[whole] - run[part]) for _, run in pairs)
        for part, whole in (("inside", "round"), ("inside cpu", "cpu"))
    )
    grown = max(run["grown"] / run["model"] for _, run in pairs)
    wall, cpu = (statistics.median(b[what] / a[what] for a, b in pairs) for what in ("round", "cpu"))
    alike, alike_cpu = (
        statistics.median(b[what] / a[what] for a, b in pairs) for what in ("below", "below cpu")
    )
    peak = statistics.median((b["peak"] - a["peak"]) / a["model"] for a, b in pairs)
    model = pairs[0][0]["model"]
    print(
        f"{options.clients} clients, {options.batches} batches of {BATCH} images of {PIXELS}x{PIXELS} pixels "
        f"each, a model of {model / 1e6:.0f} MB"
    )
    print(
        f"time:   interception {inside:.1%} of the rest of a round (wanted: under {WANTED:.0%}), "
        f"{inside_cpu:.1%} of its CPU time"
    )
    print(
        f"        it is {WANTED:.0%} where clients train on {inside / WANTED * options.batches:.1f} batches"
    )
    print(f"        whole rounds {wall - 1:+.1%} wall, {cpu - 1:+.1%} CPU (medians of {len(pairs)} pairs)")
    print(
        f"        what clients train, alike in both: {alike - 1:+.1%} wall, {alike_cpu - 1:+.1%} CPU, noise"
    )
    print(f"memory: at most {grown:.2f} copies of the model while recording (wanted: under 1)")
    print(f"        peak of the whole process {peak:+.2f} copies of the model (median)")
    print(f"load average {os.getloadavg()[0]:.1f}")


class Meter(GridProxy):
    """Adds up the time spent in the grid below."""

    def __init__(self, grid: Any) -> None:
        super().__init__(grid)
        self.seconds, self.cpu = 0.0, 0.0

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        started, cpu = time.perf_counter(), time.process_time()
        replies = super().send_and_receive(messages, timeout=timeout)
        self.seconds += time.perf_counter() - started
        self.cpu += time.process_time() - cpu
        self.look()
        return replies

    def look(self) -> None:
        """Note how large the process is, now that the replies are there."""


class Below(Meter):
    """Under the audited grid: notes how far the process grows from there on."""

    base, peak = 0, 0

    def look(self) -> None:
        self.peak = max(self.peak, _memory("VmHWM"))
        self.base = _memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here


class Above(Meter):
    """Over the audited grid: how far the process grew since the grid below was done."""

    grown = 0

    def __init__(self, grid: Any, below: Below) -> None:
        super().__init__(grid)
        self._below = below

    def look(self) -> None:
        self.grown = max(self.grown, _memory("VmHWM") - self._below.base)


def _worker(options: argparse.Namespace) -> dict[str, float]:
    """One federation in this process; seconds are of one round, memory is in bytes."""
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder, quiet_flower(), task_identity(1):
        below = Below(LocalGrid(_client(options.batches * BATCH), clients=options.clients, seed=0, run_id=1))
        above = Above(audited(below, out=folder) if options.worker == "audited" else below, below)
        initial = ArrayRecord(resnet50().state_dict())
        size = sum(len(array.data) for array in initial.values())
        strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=options.clients)
        wall, cpu = time.perf_counter(), time.process_time()
        strategy.start(above, initial, num_rounds=options.rounds)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "round": wall / options.rounds,
        "cpu": cpu / options.rounds,
        "below": below.seconds / options.rounds,
        "below cpu": below.cpu / options.rounds,
        "inside": (above.seconds - below.seconds) / options.rounds,
        "inside cpu": (above.cpu - below.cpu) / options.rounds,
        "grown": above.grown,
        "peak": max(below.peak, _memory("VmHWM")),
        "model": size,
    }


def _client(count: int) -> ClientApp:
    """A client as Flower's templates write it: one epoch by SGD over ``count`` images."""
    app = ClientApp()
    images, labels = torch.rand(count, 3, PIXELS, PIXELS), torch.randint(0, 1000, (count,))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        del context
        model = resnet50()
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        _epoch(model, images, labels)
        metrics = MetricRecord({"num-examples": count})
        content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
        return Message(content, reply_to=message)

    return app


def _epoch(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    model.train()
    for rows in torch.split(torch.randperm(len(images)), BATCH):
        optimizer.zero_grad()
        torch.autograd.backward(cross_entropy(model(images[rows]), labels[rows]))
        optimizer.step()


def _run(name: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, *sys.argv[1:], "--worker", name], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _words(run: dict[str, float]) -> str:
    times = f"{run['round']:.1f} s a round ({run['cpu']:.1f} s CPU)"
    inside = f"{run['inside']:.2f} s ({run['inside cpu']:.2f} s CPU) in interception"
    return f"{times}, {inside}, peak {run['peak'] / 2**30:.2f} GiB"


def _memory(name: str) -> int:
    """``VmRSS`` or ``VmHWM`` of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time and memory of interception.")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--batches", type=int, default=16, help="batches that a client trains on in a round")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--worker", choices=("bare", "audited"), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
