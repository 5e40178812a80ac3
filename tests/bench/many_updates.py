"""Many clients' updates attacked in one go: cost per client, images per minute, memory; made for a GPU.

    FL_AUDIT_TEST_DATA=FOLDER python tests/bench/many_updates.py --device cuda
        [--clients 1,4,16,64] [--iterations 50] [--breaching-python ENV/bin/python] [--out FILE.json]
        [--plot FILE.html] [--smoke]

Each client holds one CIFAR-10 (JPEG) test image and sends one SGD step at step size 0.1 of the ConvNet (width
64, random weights) in eval mode; labels are inferred. All updates go to one call of ``Attack.run_together``.
With ``--breaching-python`` (see `against_breaching.py`) breaching attacks a few of the same updates on the
same device, one after the other, and its seconds are those until its iterate has our mean PSNR on them, or
the whole attack where it never has. Memory is what torch allocated at most on a GPU, and the growth of the
process's peak on a CPU.
"""

import argparse
import json
import math
import resource
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # it is run as a script

import torch  # noqa: E402  # after the path, like what follows
from torch import Tensor, nn  # noqa: E402

from fl_audit.attacks import Attack, Task, attacks  # noqa: E402
from fl_audit.core.knowledge import Knowledge  # noqa: E402
from fl_audit.core.seeding import seeded_globals  # noqa: E402
from fl_audit.core.types import CaptureKey, TrainingDetails, Update  # noqa: E402
from fl_audit.data import datasets  # noqa: E402
from fl_audit.metrics import psnr  # noqa: E402
from fl_audit.models import models  # noqa: E402
from fl_audit.reports.scatter import Axis, Dot, scatter  # noqa: E402
from tests.bench._breaching import Breaching, Built  # noqa: E402
from tests.bench._cases import CASES, INVERTING  # noqa: E402
from tests.bench._data import data_file  # noqa: E402
from tests.bench._samples import CLASSES, LEARNING_RATE, SHAPE, SharedModel, snapshot, train  # noqa: E402

STYLE = ROOT / "audit" / "reports" / "templates" / "style.css"
CONVNET_WIDTH = 64

DETAILS = TrainingDetails(learning_rate=LEARNING_RATE, train_mode=False)


@dataclass(frozen=True)
class Measured:
    """All clients attacked in one go.

    Attributes:
        clients: how many, with one image each.
        seconds: wall time of all.
        psnr: mean over the images, dB.
        memory: bytes at the peak.
    """

    clients: int
    seconds: float
    psnr: float
    memory: int

    @property
    def each(self) -> float:
        """Seconds per client."""
        return self.seconds / self.clients


@dataclass(frozen=True)
class Theirs:
    """breaching on some of the same updates, one after the other.

    Attributes:
        updates: how many.
        seconds: mean wall time of one until it has our PSNR, or of all of it.
        psnr: mean at the end, dB.
        ours: mean PSNR of ours on the same updates, dB.
    """

    updates: int
    seconds: float
    psnr: float
    ours: float


def main() -> int:
    """Measure; 2 if the data is not there."""
    arguments = parse()
    archive = data_file("cifar10-jpeg.zip")
    if archive is None:
        return 2
    device, counts = torch.device(arguments.device), sorted({int(n) for n in arguments.clients.split(",")})
    images, labels = pictures(archive, counts[-1])
    attack = attacks.create(f"inverting-gradients:iterations={arguments.iterations}")
    theirs: Theirs | None = None
    with ExitStack() as stack:
        exchange = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        breaching, built = None, None
        if arguments.breaching_python:
            breaching = stack.enter_context(
                Breaching(
                    arguments.breaching_python,
                    exchange,
                    threads=torch.get_num_threads(),
                    overrides=(),
                    log=exchange / "breaching.log",
                    device=arguments.device,
                )
            )
            built = breaching.build("ConvNet", 0)
        model = architecture(built, arguments.width)
        tasks = [task(model, images[n : n + 1], labels[n : n + 1], n) for n in range(counts[-1])]
        ours(attack, tasks[:1], images, device)  # warms up
        rows: list[Measured] = []
        reached: list[float] = []
        for count in counts:
            row, reached = ours(attack, tasks[:count], images, device)
            rows.append(row)
            sys.stdout.write(line(row) + "\n")
            sys.stdout.flush()
        if breaching is not None and built is not None:
            some = tasks[: arguments.their_updates]
            theirs = one_by_one(breaching, built, some, images, labels, reached, arguments.their_iterations)
            sys.stdout.write(compared(rows[-1], theirs) + "\n")
    if arguments.out:
        record: dict[str, Any] = {
            "settings": {**vars(arguments), "out": None, "plot": None},
            "card": card(device),
        }
        record |= {"ours": [asdict(row) for row in rows], "breaching": theirs and asdict(theirs)}
        arguments.out.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if arguments.plot:
        arguments.plot.write_text(plotted(rows), encoding="utf-8")
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--clients", default="1,2,4,8,16,32,64", help="numbers of clients, up to 1000")
    parser.add_argument("--iterations", type=int, default=50, help="of our attack")
    parser.add_argument("--width", type=int, default=64, help="of the ConvNet; breaching's is 64")
    parser.add_argument("--breaching-python", help="Python of breaching's environment")
    parser.add_argument("--their-updates", type=int, default=3, help="updates that breaching attacks")
    parser.add_argument("--their-iterations", type=int, default=1000, help="breaching's iterations on each")
    parser.add_argument("--out", type=Path, help="JSON")
    parser.add_argument("--plot", type=Path, help="page with the cost per client by the number of clients")
    parser.add_argument("--smoke", action="store_true", help="seconds on a CPU: proves the plumbing only")
    arguments = parser.parse_args()
    if arguments.smoke:
        small = {"device": "cpu", "clients": "1,3", "iterations": 3, "their_updates": 1}
        vars(arguments).update(small | {"their_iterations": 4})
        if arguments.breaching_python is None:
            arguments.width = 8
    if arguments.breaching_python and arguments.width != CONVNET_WIDTH:
        parser.error(f"breaching's ConvNet has width {CONVNET_WIDTH}")
    return arguments


def pictures(archive: Path, count: int) -> tuple[Tensor, Tensor]:
    """The first test image of each class, then the second, and so on: ``(count, 3, 32, 32)`` and labels."""
    each = -(-count // CLASSES)
    data = datasets.create(f"{archive}:cifar10/test,per_class={each}").load()
    order = [row for number in range(each) for row in range(number, len(data.labels), each)][:count]
    return data.images[order], data.labels[order]


def architecture(built: Built | None, width: int) -> nn.Module:
    """The ConvNet with breaching's weights where it takes part, else with weights drawn from seed 0."""
    if built is not None:
        return SharedModel.of(CASES["convnet-1"], built).build(SHAPE, CLASSES)
    with seeded_globals(0, "model"):
        return models.create(f"convnet:width={width}").build(SHAPE, CLASSES)


def task(model: nn.Module, image: Tensor, label: Tensor, client: int) -> Task:
    """One client's update of one step; the model is as before afterwards."""
    sent = snapshot(model)
    train(model, image, label, DETAILS)
    received = snapshot(model)
    model.load_state_dict(sent)
    update = Update(CaptureKey("none", 1, client), client, sent, received, {}, {"num-examples": 1})
    return Task(update, Knowledge("C", model, "cross-entropy", CLASSES, SHAPE, DETAILS), client)


def ours(
    attack: Attack, tasks: list[Task], images: Tensor, device: torch.device
) -> tuple[Measured, list[float]]:
    """All ``tasks`` in one go, and the PSNR of each, dB."""
    begun = peak(device, reset=True)
    start = time.perf_counter()
    found = attack.run_together(tasks, device=device)
    seconds = time.perf_counter() - start
    memory = peak(device, reset=False) - begun
    failed = [result.reason for result in found if result.images is None]
    if failed:
        raise SystemExit(f"{len(failed)} of {len(tasks)} attacks failed: {failed[0]}")
    for note in dict.fromkeys(note for result in found for note in result.notes if "memory" in note):
        sys.stdout.write(f"note: {note}\n")
    made = torch.cat([result.images for result in found if result.images is not None])
    values = psnr(images[: len(tasks)], made).tolist()
    return Measured(len(tasks), seconds, sum(values) / len(values), memory), values


def peak(device: torch.device, *, reset: bool) -> int:
    """Bytes in use at most so far: torch's on a GPU, where ``reset`` begins anew, else the process's."""
    if device.type != "cuda":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if reset:
        torch.cuda.reset_peak_memory_stats(device)
        return 0
    return torch.cuda.max_memory_allocated(device)


def one_by_one(
    breaching: Breaching,
    built: Built,
    tasks: list[Task],
    images: Tensor,
    labels: Tensor,
    reached: list[float],
    iterations: int,
) -> Theirs:
    """Breaching on each of ``tasks``, after a short attack that is not counted."""
    seconds, ends, level = [], [], sum(reached[: len(tasks)]) / len(tasks)
    for number, each in enumerate(tasks):
        delta = each.update.delta()
        model = each.knowledge.model
        if model is None:
            raise ValueError("the tasks of this bench grant the model")
        gradient = [delta[name] / -LEARNING_RATE for name, _ in model.named_parameters()]
        image, label = images[number : number + 1], labels[number : number + 1]
        for count in (2, iterations) if number == 0 else (iterations,):
            attacked = breaching.attack(
                built,
                INVERTING,
                gradient,
                label,
                local=None,
                iterations=count,
                seed=number,
                every=max(1, count // 50),
            )
        course = [(at, float(psnr(image, iterate)[0])) for _, at, iterate in attacked.iterates]
        seconds.append(next((at for at, value in course if value >= reached[number]), attacked.seconds))
        ends.append(float(psnr(image, attacked.images)[0]))
    return Theirs(len(tasks), sum(seconds) / len(tasks), sum(ends) / len(tasks), level)


def line(row: Measured) -> str:
    """One row in words."""
    return (
        f"{row.clients:4d} clients: {row.seconds:.2f} s, {row.each:.3f} s each, "
        f"{60 * row.clients / row.seconds:.1f} images a minute, {row.psnr:.2f} dB, "
        f"peak memory {row.memory / 2**30:.2f} GiB"
    )


def compared(row: Measured, theirs: Theirs) -> str:
    """Our largest number of clients beside breaching."""
    return (
        f"breaching: {theirs.psnr:.2f} dB at the end (ours on the same {theirs.updates}: {theirs.ours:.2f} "
        f"dB), which takes it {theirs.seconds:.2f} s each; {row.clients} clients in one go give "
        f"{theirs.seconds / row.each:.1f} times as many images a minute"
    )


def card(device: torch.device) -> str:
    """Where it was measured."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def plotted(rows: list[Measured]) -> str:
    """A page with one chart: seconds per client by the number of clients, its logarithm to base 2."""
    dots = [Dot(math.log2(row.clients), row.each, line(row)) for row in rows]
    x = Axis("clients attacked in one go, log2", 0.0, max(dot.x for dot in dots))
    y = Axis("seconds per client", 0.0, max(dot.y for dot in dots))
    chart = scatter(dots, x, y, title="Cost per client")
    style = STYLE.read_text(encoding="utf-8")
    return f"<!doctype html><meta charset='utf-8'><title>Cost per client</title><style>{style}</style>{chart}"


if __name__ == "__main__":
    raise SystemExit(main())
