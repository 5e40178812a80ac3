"""How many images the client used, and which of them in which local step, from what is known."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from fl_audit.core.types import TrainingDetails

MAX_IMAGES = 64
"""More images than this are not attempted unless their labels are granted."""


@dataclass(frozen=True)
class Plan:
    """Who is used when.

    Attributes:
        num_images: different images, N.
        step_sizes: images used in each local step to be simulated, U in all.
        uses: int64 ``(U,)``, which image each use shows; None: each image is used once, in order.
        labels: granted labels of the images, int64 ``(N,)``.
        used: different images that there were, where fewer are attempted.
    """

    num_images: int
    step_sizes: tuple[int, ...]
    uses: Tensor | None
    labels: Tensor | None
    used: int | None = None

    @property
    def left_out(self) -> str | None:
        """Why not all images are attempted; None where they are."""
        if self.used is None:
            return None
        return (
            f"the update is of {self.used} images; {MAX_IMAGES} are attempted, since a gradient mixed from "
            "more than that without known labels is beyond this attack"
        )

    @property
    def first_pass(self) -> tuple[int, ...]:
        """Images in each of the steps that use the N images for the first time."""
        ends = accumulate(self.step_sizes)
        return self.step_sizes[: sum(end <= self.num_images for end in ends)]


def make_plan(
    told: int | None,
    training: TrainingDetails | None,
    labels: Tensor | None,
    notes: list[str],
    *,
    shown: int | None = None,
) -> Plan:
    """Lay out the local training.

    Args:
        told: different images that the client says it used.
        training: how it trained, if granted and simulated.
        labels: granted labels in order of use, int64 ``(U,)``.
        notes: gets a sentence for each thing assumed, but not `Plan.left_out`.
        shown: at least so many images, as the update shows, for where nobody says.
    """
    total = _uses(told, training, labels, notes, shown)
    images = told if told is not None and told < total else total
    if labels is None and images > MAX_IMAGES:
        return _fewer(images, total, training)
    if images < total:
        order = _order(images, total, labels)
        regular = training is None or sum(_passes(images, training) or ()) == total
        if order is not None and regular:
            own = None if labels is None else labels[:images]
            if training is None:  # one gradient of all images: how often each was used does not show
                return Plan(images, (images,), None, own)
            notes.append(_repeated(images, total, labels))
            return Plan(images, _passes(images, training) or (), order, own)
        notes.append(
            f"the client reports {images} images and used {total}, not in whole passes over the same ones: "
            "each use is reconstructed as an image of its own"
        )
    return Plan(total, _step_sizes(total, training, notes), None, labels)


def _fewer(images: int, total: int, training: TrainingDetails | None) -> Plan:
    """As many images as can be attempted, spread over the steps of a pass."""
    if training is None:
        return Plan(MAX_IMAGES, (MAX_IMAGES,), None, None, images)
    steps = training.local_steps if images == total else math.ceil(images / training.batch_size)
    sizes = _spread(MAX_IMAGES, steps)
    if images == total:
        return Plan(MAX_IMAGES, sizes, None, None, images)
    sizes = (sizes * math.ceil(training.local_steps / len(sizes)))[: training.local_steps]
    return Plan(MAX_IMAGES, sizes, torch.arange(sum(sizes)) % MAX_IMAGES, None, images)


def _repeated(images: int, total: int, labels: Tensor | None) -> str:
    order = (
        "each pass is assumed to take them in the same order"
        if labels is None
        else "the labels tell the order of each, images of one label are assumed to keep theirs"
    )
    return f"the client passed over its {images} images {total / images:.3g} times: {order}"


def _uses(
    told: int | None,
    training: TrainingDetails | None,
    labels: Tensor | None,
    notes: list[str],
    shown: int | None,
) -> int:
    """How often any image was used, best source first."""
    if labels is not None:
        return int(labels.numel())
    if training is not None:
        sizes = _passes(told, training)
        even = training.batch_size * training.local_steps
        return even if sizes is None else sum(sizes)
    if told is not None:
        notes.append(f"the number of images, {told}, is what the client reports as num-examples")
        return told
    if shown is not None and shown > 1:
        notes.append(
            f"the number of images is unknown: {shown} are assumed, since the gradient of a linear layer has "
            "that rank; there may be more"
        )
        return shown
    notes.append("the number of images is unknown: one is assumed")
    return 1


def _step_sizes(total: int, training: TrainingDetails | None, notes: list[str]) -> tuple[int, ...]:
    """Images in each local step to be simulated, each image used once."""
    if training is None:
        return (total,)
    steps, batch = training.local_steps, training.batch_size
    for sizes in ((batch,) * steps, _passes(total, training)):
        if sizes is not None and sum(sizes) == total:
            return sizes
    if steps > 1 or total != batch:
        notes.append(
            f"{total} images do not fill {steps} steps of {batch}: they are spread evenly over the steps"
        )
    return _spread(total, steps)


def _passes(images: int | None, training: TrainingDetails) -> tuple[int, ...] | None:
    """Step sizes of passes over ``images``, the last step of each short; None if they fill no pass."""
    if images is None:
        return None
    one = [min(training.batch_size, images - first) for first in range(0, images, training.batch_size)]
    if training.local_steps < len(one):
        return None
    return tuple((one * math.ceil(training.local_steps / len(one)))[: training.local_steps])


def _spread(total: int, steps: int) -> tuple[int, ...]:
    steps = min(steps, total)
    return tuple(total // steps + (step < total % steps) for step in range(steps))


def _order(images: int, total: int, labels: Tensor | None) -> Tensor | None:
    """Which image each use shows: the first pass is in order, later ones as the labels say.

    None if the labels of a later pass are not those of the first.
    """
    if labels is None:
        return torch.arange(total) % images
    first = labels[:images].tolist()
    order: list[int] = []
    for start in range(0, total, images):
        places = _matched(first, labels[start : start + images].tolist())
        if places is None:
            return None
        order.extend(places)
    return torch.tensor(order)


def _matched(first: Sequence[int], later: Sequence[int]) -> list[int] | None:
    """For each label of ``later`` a place of its own in ``first`` with that label; None if one has none."""
    free: dict[int, list[int]] = {}
    for place in reversed(range(len(first))):
        free.setdefault(first[place], []).append(place)
    places = [free[label].pop() if free.get(label) else None for label in later]
    return None if None in places else [place for place in places if place is not None]
