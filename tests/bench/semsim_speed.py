"""SemSim's speed at 32x32 beside its floor, one bare forward pass of the network. Run on a quiet machine.

Run: ``python tests/bench/semsim_speed.py [cuda]``. Wanted: 100 pairs a second on two cores, 2,000 on a GPU.
"""

import sys
import time

import torch

from fl_audit.semsim import distance, packaged, prepare

PAIRS = 2048


def main() -> int:
    """Print pairs a second, of the metric and of the floor."""
    device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(PAIRS, 3, 32, 32, generator=generator).to(device) for _ in range(2))
    network = packaged().network.to(device)
    ready = prepare(torch.cat([x, y]))
    for name, run in (("SemSim", lambda: distance(network, x, y)), ("floor", lambda: network(ready))):
        with torch.no_grad():
            run().sum().item()
            start = time.perf_counter()
            run().sum().item()
        sys.stdout.write(f"{name}: {PAIRS / (time.perf_counter() - start):.0f} pairs/s on {device}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
