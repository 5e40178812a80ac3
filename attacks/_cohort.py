"""Whose training an update shows: one client's, or under secure aggregation the weighted mean of several."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from fl_audit.attacks._granted import checked_labels, simulated
from fl_audit.attacks._plan import MAX_IMAGES, Plan, make_plan
from fl_audit.core.errors import ConfigError
from fl_audit.core.knowledge import Knowledge, Share
from fl_audit.core.types import TrainingDetails, Update

ROUNDING = 1e-3
"""How far weights may be from adding up to 1."""


@dataclass(frozen=True)
class Layout:
    """What to simulate.

    Attributes:
        plan: of all images.
        training: how the client trained, or how all did; None: the update is one gradient of unknown scale.
        members: weight, plan and training of each client where they are simulated one by one; else empty.
    """

    plan: Plan
    training: TrainingDetails | None
    members: tuple[tuple[float, Plan, TrainingDetails], ...] = ()


def lay_out(
    update: Update,
    knowledge: Knowledge,
    *,
    batch_statistics: bool,
    gradient: bool,
    shown: int | None,
    notes: list[str],
) -> Layout:
    """Lay out the training of the client, or of the clients of an aggregate.

    Args:
        update: what the server saw.
        knowledge: what is granted.
        batch_statistics: whether the model normalises by the batch: then clients do not mix.
        gradient: whether the update came as a gradient.
        shown: at least so many images, as the update shows, where nobody says.
        notes: gets a sentence for each thing assumed.

    Raises:
        ConfigError: the clients' weights are not those of a mean.
    """
    _check_weights(knowledge.cohort)
    shares = knowledge.cohort or (Share(1.0, update.num_examples, knowledge.training, knowledge.labels),)
    assumed: list[str] = []
    trainings = [simulated(share.training, assumed) for share in shares]
    plans = [
        make_plan(
            share.num_examples, share.training, checked_labels(share.labels, knowledge), assumed, shown=shown
        )
        for share in shares
    ]
    notes.extend(dict.fromkeys(assumed))  # clients that are alike give the same ones
    layout = _layout(shares, plans, trainings, batch_statistics=batch_statistics, gradient=gradient)
    if layout.members:
        notes.append(f"the training of each of the {len(shares)} clients is simulated, and their mean taken")
    if layout.plan.left_out is not None:
        notes.append(layout.plan.left_out)
    return layout


def _layout(
    shares: Sequence[Share],
    plans: Sequence[Plan],
    trainings: Sequence[TrainingDetails | None],
    *,
    batch_statistics: bool,
    gradient: bool,
) -> Layout:
    """The layout, from what each client did by itself."""
    if len(shares) == 1 and trainings[0] is not None and not gradient:
        return Layout(plans[0], trainings[0])
    together = _together(plans)
    if together.labels is None and together.num_images > MAX_IMAGES:
        used = together.used or together.num_images
        return Layout(Plan(MAX_IMAGES, (MAX_IMAGES,), None, None, used), None)
    known = [training for training in trainings if training is not None]
    if gradient or len(known) < len(shares):
        return Layout(together, None)
    if not batch_statistics and _one_step(shares, plans, known):
        return Layout(together, replace(known[0], batch_size=together.num_images, local_steps=1))
    sizes = tuple(size for plan in plans for size in plan.first_pass)
    members = tuple(
        (share.weight, plan, training) for share, plan, training in zip(shares, plans, known, strict=True)
    )
    return Layout(replace(together, step_sizes=sizes), known[0], members)


def _check_weights(shares: Sequence[Share]) -> None:
    weights = [share.weight for share in shares]
    if shares and not (min(weights) > 0 and abs(sum(weights) - 1) < ROUNDING):
        raise ConfigError(
            f"expected positive weights of the cohort that add up to 1, got {weights[:5]} with the sum "
            f"{sum(weights):g}: the update must be the clients' weighted mean; divide a sum by their total "
            "weight"
        )


def _together(plans: Sequence[Plan]) -> Plan:
    """All images as one batch, those of the first client first."""
    count = sum(plan.num_images for plan in plans)
    labels = [plan.labels for plan in plans if plan.labels is not None]
    used = sum(plan.used or plan.num_images for plan in plans)
    return Plan(
        count,
        (count,),
        None,
        torch.cat(labels) if len(labels) == len(plans) else None,
        used if used > count else None,
    )


def _one_step(shares: Sequence[Share], plans: Sequence[Plan], trainings: Sequence[TrainingDetails]) -> bool:
    """Whether the mean update is that of one SGD step on all images: equal steps, weights as the images."""
    count = sum(plan.num_images for plan in plans)
    return all(
        training.optimizer == "sgd"
        and training.clip_norm is None  # by each client, at its own
        and plan.step_sizes == (plan.num_images,)
        and abs(share.weight - plan.num_images / count) < 1e-6
        and replace(training, batch_size=1) == replace(trainings[0], batch_size=1)
        for share, plan, training in zip(shares, plans, trainings, strict=True)
    )
