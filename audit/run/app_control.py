"""Controls of a user's app: its own model, on images that it evaluated on, else on those of its clients."""

import shutil

import torch
from torch import Tensor

from fl_audit.core.captures import list_captures
from fl_audit.core.errors import AuditError, CaptureError
from fl_audit.core.files import read_tensors, write_json
from fl_audit.core.progress import Progress
from fl_audit.core.units import ImageData
from fl_audit.federation.apps import HELD_OUT
from fl_audit.run.app_settings import PROCESSES
from fl_audit.run.config import RunConfig
from fl_audit.run.control import capture_control
from fl_audit.run.facts import read_scene
from fl_audit.run.folder import CONTROL, RunFolder
from fl_audit.run.negative import write_pool
from fl_audit.run.originals import originals
from fl_audit.run.weights import RECIPE, model_spec

ENOUGH = 8
"""Held-out images below which the clients' own serve as well."""


def control_of_app(folder: RunFolder, config: RunConfig, named: dict[str, str], progress: Progress) -> None:
    """Write pool and control; without a model or an image there is no control, and its record says so."""
    scene = read_scene(folder.scene).dataset
    slug = next(iter(named.values()))
    found = _images(folder, slug, len(scene.classes))
    reason = "no image of the app was seen" if found is None else None
    if found is not None:
        images, labels = found
        data = ImageData(images, labels, tuple(scene.classes), scene.title)
        rows = torch.arange(len(images))
        write_pool(folder, data, rows)
    known = bool(scene.classes) and (folder.root / RECIPE).is_file()
    if found is not None and not known:
        reason = "how to build the app's model is not known, or it is no classifier"
    elif found is not None and not any(
        folder.knowledge_file(key).is_file() for key in list_captures(folder.captures, slug)
    ):
        reason = "the clients' updates are not attacked either"
    elif found is not None:
        for train in dict.fromkeys((config.training.train_mode, False)):
            training = config.training.model_copy(update={"train_mode": train})
            try:
                model = model_spec(config.model, folder.root)
                tried = config.model_copy(update={"training": training})
                capture_control(folder, tried, slug, data, rows, model)
                if reason is not None:
                    progress.note(f"the positive control trains in eval mode: {reason}")
                return
            except AuditError as error:
                reason = str(error)
                break
            except (RuntimeError, ValueError) as error:
                # Batch norm refuses one image in train mode where only one pixel is left of it.
                reason = f"one training step on one image failed: {error}"
                shutil.rmtree(folder.captures / CONTROL, ignore_errors=True)
    progress.note(f"no positive control: {reason}")
    write_json(
        folder.federation(CONTROL), {"schema_version": 1, "weights_of": slug, "rounds": [], "reason": reason}
    )


def _images(folder: RunFolder, slug: str, classes: int) -> tuple[Tensor, Tensor] | None:
    """Images in [0, 1] and labels: evaluated ones, and the clients' own where those are few."""
    found: list[tuple[Tensor, Tensor]] = []
    path = folder.root / PROCESSES / slug / HELD_OUT
    if path.is_file():
        held = read_tensors(path)
        # A label that was not seen may be any: the control's client is ours.
        found.append((held["images"], held["labels"].clamp(0, max(classes - 1, 0))))
    if sum(len(images) for images, _ in found) < ENOUGH:
        for key in list_captures(folder.captures, slug):
            try:
                truth = originals(folder, key)
            except CaptureError:
                continue
            found.append((truth.images, truth.labels))
    found = [pair for pair in found if pair[0].shape[1:] == found[0][0].shape[1:]]
    return (torch.cat([a for a, _ in found]), torch.cat([b for _, b in found])) if found else None
