"""What recording costs: share of a round's time, and memory beyond that of the same round without recording.

python tests/bench/interception_overhead.py [--clients 10] [--batches 32]

ResNet-50 (25.6 million parameters), clients that train on batches of 16 images of 32 x 32 pixels; the same
federation with and without recording, each in a process of its own so that peaks can be told apart.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from torch import nn
from torchvision.models import resnet50

from fl_audit.federation.local_engine import run_local
from fl_audit.federation.server_app import quiet_flower
from fl_audit.strategies import AuditGrid, Recorder


class Timed(Recorder):
    """A recorder that knows how long it took."""

    seconds = 0.0

    def snapshot(self, messages: Any) -> Any:
        """As `Recorder.snapshot`."""
        start = time.perf_counter()
        try:
            return super().snapshot(messages)
        finally:
            self.seconds += time.perf_counter() - start

    def record(self, sent: Any, reply: Any) -> Any:
        """As `Recorder.record`."""
        start = time.perf_counter()
        try:
            return super().record(sent, reply)
        finally:
            self.seconds += time.perf_counter() - start


def federate(out: Path | None, clients: int, batches: int) -> dict[str, float]:
    """One round; returns its figures."""
    client = ClientApp()

    @client.train()
    def train(message: Message, context: Context) -> Message:
        model = resnet50(num_classes=10)
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(batches):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(torch.rand(16, 3, 32, 32)), torch.randint(10, (16,)))
            torch.autograd.backward(loss)
            optimizer.step()
        content = RecordDict(
            {"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord({"num-examples": 16})}
        )
        return Message(content, reply_to=message)

    server = ServerApp()
    recorder = None if out is None else Timed(out)
    figures: dict[str, float] = {}

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        initial = ArrayRecord(resnet50(num_classes=10).state_dict())
        figures["model_bytes"] = sum(len(array.data) for array in initial.values())
        used = grid if recorder is None else AuditGrid(grid, recorder)
        start = time.perf_counter()
        strategy = FedAvg(fraction_evaluate=0.0)
        strategy.start(grid=used, initial_arrays=initial, num_rounds=1, timeout=10**6)
        figures["seconds"] = time.perf_counter() - start

    with quiet_flower():
        run_local(server, client, clients=clients, seed=1)
    figures["recording"] = 0.0 if recorder is None else recorder.seconds
    figures["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return figures


def main() -> None:
    """Run both, or one of them where told to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--batches", type=int, default=32)
    parser.add_argument("--one", choices=("with", "without"))
    given = parser.parse_args()
    if given.one is not None:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) if given.one == "with" else None
            print(json.dumps(federate(out, given.clients, given.batches)))
        return
    found = {name: measured(name, given.clients, given.batches) for name in ("without", "with")}
    plain, recorded = found["without"], found["with"]
    share = recorded["recording"] / (recorded["seconds"] - recorded["recording"])
    extra = recorded["peak_bytes"] - plain["peak_bytes"]
    print(f"round without recording {plain['seconds']:.1f} s, with {recorded['seconds']:.1f} s")
    print(f"recording itself {recorded['recording']:.2f} s: {share:.1%} of the rest of the round")
    before, after = (side["peak_bytes"] / 2**20 for side in (plain, recorded))
    print(f"peak memory {before:.0f} MiB and {after:.0f} MiB: ", end="")
    print(f"{extra / recorded['model_bytes']:+.2f} copies of the model")


def measured(name: str, clients: int, batches: int) -> dict[str, float]:
    """The figures of one side, from a process of its own."""
    command = [sys.executable, __file__, "--one", name, f"--clients={clients}", f"--batches={batches}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


if __name__ == "__main__":
    main()
