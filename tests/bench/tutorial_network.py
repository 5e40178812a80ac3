"""Attacks on the small CNN of many tutorials: two max poolings hide most pixels' gradient.

FL_AUDIT_TEST_DATA=FOLDER python tests/bench/tutorial_network.py
    --attacks "auto,auto:further=0,inverting-gradients:iterations=1200" --images 10

Each update is one SGD step on one image, at random weights of its own; labels are inferred. Images are the
last test image of each class of CIFAR-10 (JPEG), which no attack was tuned on. A line for each attack: mean
PSNR, mean of SemSim's probability, how many count as recognised by the probability alone, seconds an image.
"""

import argparse
import sys

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fl_audit.attacks import Task, attacks
from fl_audit.core.knowledge import Knowledge
from fl_audit.core.seeding import seeded_globals
from fl_audit.core.types import CaptureKey, TrainingDetails, Update
from fl_audit.data import datasets
from fl_audit.metrics import THRESHOLD, metrics
from fl_audit.semsim import packaged
from tests.bench._data import data_file

SHAPE, CLASSES, RATE = (3, 32, 32), 10, 0.1


def main() -> int:
    """Print a line for each attack; 2 if the data is not there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attacks", default="auto")
    parser.add_argument("--images", type=int, default=10, help="of test images, the last of each class")
    arguments = parser.parse_args()
    archive = data_file("cifar10-jpeg.zip")
    if archive is None:
        return 2
    torch.set_num_threads(2)
    data = datasets.create(f"{archive}:cifar10/test").load()
    rows = [int((data.labels == label).nonzero().flatten()[-1]) for label in range(arguments.images)]
    images, labels = data.images[rows], data.labels[rows]
    tasks = [
        task(number, image[None], label[None])
        for number, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    psnr, semsim = metrics.create("psnr"), metrics.create("semsim")
    for spec in arguments.attacks.split(","):
        found = attacks.create(spec).run_together(tasks, device=torch.device("cpu"))
        made = torch.stack([torch.zeros(SHAPE) if one.images is None else one.images[0] for one in found])
        chance = packaged().calibration.probability(semsim.score(images, made))
        failed, seconds = sum(one.images is None for one in found), sum(one.seconds for one in found)
        sys.stdout.write(
            f"{spec:45} {float(psnr.score(images, made).mean()):5.1f} dB, p {float(chance.mean()):.2f}, "
            f"{int((chance >= THRESHOLD).sum())} of {len(images)} recognised, "
            f"{seconds / len(found):.1f} s, failed {failed}\n"
        )
        sys.stdout.flush()
    return 0


def task(seed: int, image: torch.Tensor, label: torch.Tensor) -> Task:
    """What the server sees of one step on one image."""
    with seeded_globals(seed, "tutorial-network"):
        model = nn.Sequential(
            *(
                nn.Conv2d(3, 6, 5),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(6, 16, 5),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ),
            *(
                nn.Flatten(),
                nn.Linear(400, 120),
                nn.ReLU(),
                nn.Linear(120, 84),
                nn.ReLU(),
                nn.Linear(84, CLASSES),
            ),
        )
    sent = {key: value.detach().clone() for key, value in model.state_dict().items()}
    gradients = torch.autograd.grad(cross_entropy(model(image), label), list(model.parameters()))
    back = {
        key: value - RATE * gradient for (key, value), gradient in zip(sent.items(), gradients, strict=True)
    }
    details = TrainingDetails(learning_rate=RATE, local_steps=1, batch_size=1)
    return Task(
        Update(CaptureKey("none", 1, seed), seed, sent, back, {}, {"num-examples": 1}),
        Knowledge("C", model, "cross-entropy", CLASSES, SHAPE, details),
        seed,
    )


if __name__ == "__main__":
    raise SystemExit(main())
