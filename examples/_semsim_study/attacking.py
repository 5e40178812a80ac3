"""One setting from network to scores: train, attack, grade, write the pictures."""

from dataclasses import dataclass
from pathlib import Path

import torch

from _semsim_study.clients import make_clients, network
from _semsim_study.eta import Eta
from _semsim_study.grading import graded, pictures_of, surroundings
from _semsim_study.records import Done, Options
from _semsim_study.settings import Setting
from fl_audit.attacks import attacks
from fl_audit.core.images import write_png
from fl_audit.core.types import Reconstruction
from fl_audit.federation.training import evaluate
from fl_audit.semsim.pictures import Pictures

OTHERS = 256
"""Pictures that no client holds: what a guess is made from."""
EVALUATED = 256
"""Pictures that the accuracy is measured on."""


@dataclass(frozen=True)
class Place:
    """Where it runs: the study's folder, the device, and how many images are attacked side by side."""

    out: Path
    device: torch.device
    together: int


def attack_setting(
    setting: Setting, options: Options, training: Pictures, held: Pictures, place: Place, progress: Eta
) -> Done:
    """The record of a setting; its pictures are written, the record is not.

    Args:
        setting: which.
        options: of the study.
        training: pictures that the network is trained on.
        held: others, the first of which are attacked.
        place: where it runs.
        progress: what shows how far it is.
    """
    classes = int(training.classes.max()) + 1
    model = network(
        setting,
        training,
        classes,
        steps=options.train_steps,
        seed=options.seed,
        folder=place.out / "models",
        device=place.device,
        progress=progress,
    )
    rows = torch.arange(options.images)
    originals, marks = held.floats(rows), held.classes[rows]
    clients = make_clients(setting, model, originals, marks, classes, options.seed)
    attack = attacks.create(options.attack)
    progress.begin(str(setting))
    found: list[Reconstruction] = []
    parts = [clients.tasks[at : at + place.together] for at in range(0, len(rows), place.together)]
    for number, part in enumerate(parts):
        progress.part(number, len(parts))
        found += attack.run_together(part, device=place.device, progress=progress)
    made = pictures_of(found, originals)
    names = [f"{setting.slug}/{row:03d}" for row in rows.tolist()]
    for name, original, victim, image in zip(names, originals, clients.victims, made, strict=True):
        write_png(place.out / "victims" / f"{name}.png", victim)
        if bool(image.isfinite().all()):
            write_png(place.out / "pairs" / f"{name}_ori.png", original)
            write_png(place.out / "pairs" / f"{name}_rec.png", image)
    others = training.floats(torch.arange(min(OTHERS, len(training.images))))
    context = surroundings(model, originals, marks, others)
    pairs, sets = graded(names, originals, made, clients, found, context)
    shown = torch.arange(min(EVALUATED, len(held.images)))
    accuracy, _ = evaluate(model, held.floats(shown), held.classes[shown])
    return Done(
        model=setting.model,
        setting=setting.way.name,
        augmentation=setting.way.augmentation,
        defense=setting.way.defense,
        accuracy=accuracy,
        iterations=sum(one.iterations for one in found),
        seconds=round(sum(one.seconds for one in found), 1),
        pairs=pairs,
        sets=sets,
    )
