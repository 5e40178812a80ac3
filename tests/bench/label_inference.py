"""How often the labels of an update come out right: models, batch sizes, local training, defenses.

FL_AUDIT_TEST_DATA=FOLDER python tests/bench/label_inference.py                 # LeNet, untrained and trained
FL_AUDIT_TEST_DATA=FOLDER python tests/bench/label_inference.py --models convnet:width=16@300,lenet@0
    --settings one-step,two-epochs --batches 8,64 --updates 20                 # NAME@STEPS of training before

Images are CIFAR-10 (JPEG): models train on the training set, clients hold unseen test images, drawn evenly
(iid) or from a Dirichlet(0.3) over the classes (skew). A cell is: share of updates whose labels are all
right, share of labels that are right, share of updates whose labels are said to be proved, and milliseconds
a call. The last line says how many of those that are said to be proved are right; one that is not makes the
exit status 1.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fl_audit.attacks import AttackFailed
from fl_audit.attacks.labels import find_labels
from fl_audit.attacks.problem import prepare
from fl_audit.core.knowledge import Knowledge
from fl_audit.core.progress import Progress
from fl_audit.core.seeding import numpy_generator, seeded_globals, torch_generator
from fl_audit.core.types import CaptureKey, TrainingDetails, Update
from fl_audit.data import datasets
from fl_audit.models import models
from fl_audit.strategies.defenses import defenses

SHAPE, CLASSES = (3, 32, 32), 10
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Setting:
    """How a client trains and what is granted.

    Attributes:
        steps: local steps that an epoch is cut into.
        epochs: passes over the images.
        rate: learning rate.
        train_mode: whether batch norm runs by batch.
        granted: whether the training details are granted.
        defense: applied to the update.
    """

    steps: int = 1
    epochs: int = 1
    rate: float = 0.1
    train_mode: bool = False
    granted: bool = True
    defense: str = "none"


SETTINGS = {
    "one-step": Setting(),
    "no-scale": Setting(granted=False),
    "train-mode": Setting(train_mode=True),
    "four-steps": Setting(steps=4, rate=0.01),
    "two-epochs": Setting(steps=2, epochs=2, rate=0.01),
    "five-epochs": Setting(steps=2, epochs=5, rate=0.01),
    "five-epochs-no-scale": Setting(steps=2, epochs=5, rate=0.01, granted=False),
    "noise": Setting(defense="noise:0.0001"),
    "prune": Setting(defense="prune:0.7"),
    "clip": Setting(defense="clip:0.05"),
}


@dataclass
class Tally:
    """Updates whose labels were said to be proved, and how many of those were right."""

    proved: int = 0
    right: int = 0


def main() -> int:
    """Print a line for each model, setting and kind; 2 if the data is not there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="lenet@0,lenet@500,lenet@2000")
    parser.add_argument("--settings", default="one-step,no-scale,four-steps,two-epochs")
    parser.add_argument("--batches", default="1,4,8,16,32,64")
    parser.add_argument("--kinds", default="iid,skew")
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="decides which images clients hold")
    arguments = parser.parse_args()
    folder = os.environ.get("FL_AUDIT_TEST_DATA")
    if folder is None:
        sys.stderr.write("FL_AUDIT_TEST_DATA names no folder with cifar10-jpeg.zip\n")
        return 2
    torch.set_num_threads(1)
    pools = load(Path(folder) / "cifar10-jpeg.zip")
    tally = Tally()
    batches = [int(size) for size in arguments.batches.split(",")]
    for spec in arguments.models.split(","):
        name, _, steps = spec.partition("@")
        model = trained(name, int(steps or 0), *pools[0])
        for setting in arguments.settings.split(","):
            for kind in arguments.kinds.split(","):
                cells = [cell(model, pools[1], SETTINGS[setting], kind, n, arguments, tally) for n in batches]
                sys.stdout.write(f"{spec:22} {setting:16} {kind:5} " + " | ".join(cells) + "\n")
                sys.stdout.flush()
    sys.stdout.write(f"said to be proved: {tally.proved} updates, of which {tally.right} are right\n")
    return int(tally.right < tally.proved)


def load(archive: Path) -> list[tuple[Tensor, Tensor]]:
    """Training and test images with labels."""
    parts = (("train", 400), ("test", 150))
    data = [datasets.create(f"{archive}:cifar10/{part},per_class={many}").load() for part, many in parts]
    return [(part.images, part.labels) for part in data]


def trained(name: str, steps: int, images: Tensor, labels: Tensor) -> nn.Module:
    """A model after so many steps of Adam on batches of 64."""
    with seeded_globals(0, "model"):
        model = models.create(name).build(SHAPE, CLASSES)
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    generator = torch_generator(0, "training")
    model.train()
    for _ in range(steps):
        rows = torch.randint(len(images), (64,), generator=generator)
        optimiser.zero_grad()
        torch.autograd.backward(cross_entropy(model(images[rows]), labels[rows]))
        optimiser.step()
    return model


def cell(
    model: nn.Module,
    pool: tuple[Tensor, Tensor],
    setting: Setting,
    kind: str,
    size: int,
    arguments: argparse.Namespace,
    tally: Tally,
) -> str:
    """One cell of the table; adds to the tally."""
    updates = arguments.updates
    if size < setting.steps:
        return "-".center(24)
    whole = right = proved = spent = 0.0
    for update, knowledge, truth in clients(
        model, pool, setting, kind, size, updates=updates, seed=arguments.seed
    ):
        problem = prepare(update, knowledge, seed=0, who="bench", device=CPU, progress=Progress())
        begun = time.perf_counter()
        try:
            found = find_labels(problem)
        except AttackFailed:
            continue
        spent += time.perf_counter() - begun
        wrong = (torch.bincount(found.values, minlength=CLASSES) - truth).abs().sum().item() / 2
        whole += wrong == 0
        right += 1 - wrong / size
        if any("proved" in note for note in problem.notes):
            proved += 1
            tally.proved += 1
            tally.right += wrong == 0
    shares = f"{whole / updates:4.2f} {right / updates:5.3f} {proved / updates:4.2f}"
    return f"{shares} {1e3 * spent / updates:4.0f}ms"


def clients(
    model: nn.Module,
    pool: tuple[Tensor, Tensor],
    setting: Setting,
    kind: str,
    size: int,
    *,
    updates: int,
    seed: int,
) -> Iterator[tuple[Update, Knowledge, Tensor]]:
    """Updates with what is granted and the true counts."""
    images, labels = pool
    generator = torch_generator(seed, "clients", kind, size)
    start = {key: value.detach().clone() for key, value in model.state_dict().items()}
    draw = {"iid": evenly, "skew": skewed}[kind]
    defense = defenses.create(setting.defense)
    for number in range(updates):
        rows = draw(labels, size, generator)
        details = TrainingDetails(
            learning_rate=setting.rate,
            local_steps=setting.steps * setting.epochs,
            batch_size=size // setting.steps,
            train_mode=setting.train_mode,
        )
        model.load_state_dict(start)
        optimiser = torch.optim.SGD(model.parameters(), lr=setting.rate)
        model.train(setting.train_mode)
        for _ in range(setting.epochs):
            for part in torch.split(rows[torch.randperm(size, generator=generator)], details.batch_size):
                optimiser.zero_grad()
                torch.autograd.backward(cross_entropy(model(images[part]), labels[part]))
                optimiser.step()
        sent = {key: value.numpy() for key, value in start.items()}
        back = {key: value.detach().clone().numpy() for key, value in model.state_dict().items()}
        arrays = defense.apply(sent, back, rng=numpy_generator(0, "defense", number), state={})
        received = {key: torch.from_numpy(value) for key, value in arrays.items()}
        model.load_state_dict(start)
        update = Update(CaptureKey("none", 1, number), number, start, received, {}, {"num-examples": size})
        knowledge = Knowledge(
            "C" if setting.granted else "B",
            model,
            "cross-entropy",
            CLASSES,
            SHAPE,
            details if setting.granted else None,
        )
        yield update, knowledge, torch.bincount(labels[rows], minlength=CLASSES)


def evenly(labels: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Rows drawn from all images alike."""
    return torch.randperm(len(labels), generator=generator)[:size]


def skewed(labels: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Rows drawn by class, with shares from a Dirichlet(0.3)."""
    gamma = torch._standard_gamma(torch.full((CLASSES,), 0.3), generator=generator)
    return torch.multinomial(gamma[labels] + 1e-9, size, generator=generator)


if __name__ == "__main__":
    raise SystemExit(main())
