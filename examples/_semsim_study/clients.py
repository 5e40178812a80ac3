"""The attacked clients: a network trained as the setting says, one step on one image each, their updates."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from _semsim_study.settings import Setting, hooks
from fl_audit.attacks.base import Task
from fl_audit.core.files import read_tensors, write_tensors
from fl_audit.core.knowledge import Knowledge
from fl_audit.core.progress import Progress
from fl_audit.core.seeding import numpy_generator, seeded_globals, torch_generator
from fl_audit.core.training import Training
from fl_audit.core.types import CaptureKey, TrainingDetails, Update
from fl_audit.core.units import Defense
from fl_audit.federation.training import train
from fl_audit.models import models
from fl_audit.run.folder import slugs
from fl_audit.semsim.pictures import Pictures
from fl_audit.semsim.structure import transform_grade
from fl_audit.semsim.transforms import Transformed
from fl_audit.strategies.defenses import defenses
from fl_audit.strategies.defenses.ats import AutomaticTransformation

BATCH = 64
CHUNK = 25
"""Steps of the training before the attack between two looks at the clock; momentum starts anew in each."""
RATE = 0.05
SHAPE = (3, 32, 32)
STEP = Training(learning_rate=1.0, batch_size=1, local_steps=1)
"""The attacked step. At a learning rate of 1 the update is minus the gradient, so that noise on the one is
noise on the other, as in the paper."""


@dataclass(frozen=True)
class Clients:
    """Clients of one setting, each with one image.

    Attributes:
        tasks: what the attacker gets of each.
        victims: what they trained on, float32 ``(N, 3, 32, 32)`` in [0, 1].
        kept: how much of the original's structure is left in the victims, ``(N,)``.
        visible: share of the original's area in the victim's frame, ``(N,)``.
    """

    tasks: tuple[Task, ...]
    victims: Tensor
    kept: Tensor
    visible: Tensor


def network(
    setting: Setting,
    pictures: Pictures,
    classes: int,
    *,
    steps: int,
    seed: int,
    folder: Path,
    device: torch.device,
    progress: Progress,
) -> nn.Module:
    """The network that the clients are sent, in eval mode; read from ``folder`` if it was trained before."""
    name = f"{setting.model}-{setting.way.augmentation}"
    path = folder / f"{slugs([name])[name]}.safetensors"
    with seeded_globals(seed, "study", setting.model):  # every training starts from the same weights
        model = models.create(setting.model).build(SHAPE, classes)
    if path.is_file():
        model.load_state_dict(read_tensors(path))
        return model.eval()
    generator, rng = torch_generator(seed, "study images", name), torch_generator(seed, "study views", name)
    model.to(device)
    for done in range(0, steps, CHUNK):
        share = done / steps
        few = Training(
            learning_rate=RATE * 0.5 * (1 + math.cos(math.pi * share)),
            momentum=0.9,
            weight_decay=5e-4,
            batch_size=BATCH,
            local_steps=min(CHUNK, steps - done),
            train_mode=True,
        )
        rows = torch.randperm(len(pictures.images), generator=generator)[: CHUNK * BATCH]
        images, labels = pictures.floats(rows).to(device), pictures.classes[rows].to(device)
        hook = hooks(setting.way.augmentation)
        train(model, images, labels, few, generator, num_classes=classes, defense=hook, rng=rng)
        progress.begin(f"{setting}: trained {done + few.steps(len(rows))} of {steps} steps")
    write_tensors(path, model.cpu().state_dict())
    return model.eval()


def make_clients(
    setting: Setting, model: nn.Module, originals: Tensor, labels: Tensor, classes: int, seed: int
) -> Clients:
    """Every original is the one image of a client.

    Args:
        setting: what the clients do.
        model: what they are sent, on the CPU.
        originals: float32 ``(N, 3, 32, 32)`` in [0, 1].
        labels: int64 ``(N,)``.
        classes: number of classes.
        seed: of everything drawn.
    """
    defense = defenses.create(setting.way.defense)
    tasks, victims, kept, visible = [], [], [], []
    for row in range(len(originals)):
        image, label = originals[row : row + 1], labels[row : row + 1]
        update = _update(setting, defense, model, image, label, classes, seed, row)
        details = TrainingDetails(learning_rate=STEP.learning_rate, local_steps=1, batch_size=1)
        known = Knowledge("C", model, "cross-entropy", classes, SHAPE, details, label)
        tasks.append(Task(update, known, seed + row))
        seen = _seen(defense, image, _rng(setting, seed, row))
        victims.append(seen.images)
        kept.append(transform_grade(seen))
        visible.append(seen.visible)
    return Clients(tuple(tasks), torch.cat(victims), torch.cat(kept), torch.cat(visible))


def _rng(setting: Setting, seed: int, row: int) -> torch.Generator:
    return torch_generator(seed, "study client", setting.way.name, row)


def _seen(defense: Defense, image: Tensor, rng: torch.Generator) -> Transformed:
    """What the client trains on, with its geometry."""
    if isinstance(defense, AutomaticTransformation):
        traced = defense.traced(image, rng=rng)
        return Transformed(traced.images, traced.moved, traced.visible)
    return Transformed(image, image, torch.ones(1))


def _update(
    setting: Setting,
    defense: Defense,
    sent: nn.Module,
    image: Tensor,
    label: Tensor,
    classes: int,
    seed: int,
    row: int,
) -> Update:
    """One local step, and what leaves the client after its defense."""
    model = copy.deepcopy(sent).requires_grad_(True)
    order = torch_generator(seed, "study order", row)
    rng = _rng(setting, seed, row)
    train(model, image, label, STEP, order, num_classes=classes, defense=defense, rng=rng)
    left = defense.apply(
        _arrays(sent.state_dict()),
        _arrays(model.state_dict()),
        rng=numpy_generator(seed, "study update", setting.way.name, row),
        state={},
    )
    received = {name: torch.from_numpy(np.asarray(array)) for name, array in left.items()}
    key = CaptureKey(setting.slug, 1, row)
    return Update(key, row, sent.state_dict(), received, metrics={"num-examples": 1})


def _arrays(state: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in state.items()}
