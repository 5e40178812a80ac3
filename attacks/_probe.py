"""A look at the model before any work: how to differentiate it, and whether its graphs fit memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from fl_audit.attacks._failed import AttackFailed
from fl_audit.attacks._operations import KINKS, MAX_POOLS, Operations, any_of
from fl_audit.attacks.plain_ops import needs_plain_ops
from fl_audit.attacks.unroll import Unrolling, gradient_slopes
from fl_audit.core.errors import ConfigError

BOUND = 128 * 2**20
"""Bytes that the graphs of all local steps may take before states are kept instead."""

GRAPHS = 3
"""A step's graph holds about so many times what its forward pass keeps: values, slopes, slopes of both."""

AGREEMENT = 1e-3
"""Relative distance at which two ways of differentiating agree; float32 gives 1e-5, a wrong formula 1e-2."""


@dataclass(frozen=True)
class Looks:
    """What a model calls, as modules or as functions.

    Attributes:
        plain: whether it needs `plain_ops`.
        kinked: whether something in it has second derivatives that vanish or jump.
        max_pooled: whether it pools by maximum.
    """

    plain: bool
    kinked: bool
    max_pooled: bool


def check_model(run: Callable[[Tensor], object], images: Tensor, num_classes: int | None) -> Looks:
    """Run the model and see what it calls.

    Raises:
        AttackFailed: it does not run on such images.
        ConfigError: it has another number of logits than classes are granted.
    """
    made: list[object] = []
    try:
        # Without gradient, attention takes a shortcut that shows nothing.
        with torch.enable_grad(), Operations() as ran:
            needed = needs_plain_ops(lambda: made.append(run(images)))
    except (RuntimeError, ValueError) as error:
        reason = str(error).split("\n", 1)[0]
        raise AttackFailed(
            f"the model granted does not run on images of shape {tuple(images.shape)}: {reason}"
        ) from error
    logits = made[0]
    if (
        isinstance(logits, Tensor)
        and logits.ndim == 2
        and logits.shape[1] != (num_classes or logits.shape[1])
    ):
        raise ConfigError(
            f"the model granted to the attacker has {logits.shape[1]} outputs, and {num_classes} classes are "
            "granted (num_classes): both must be those of the clients"
        )
    return Looks(needed, kinked=any_of(ran.seen, KINKS), max_pooled=any_of(ran.seen, MAX_POOLS))


def in_bounded_memory(plans: Sequence[Unrolling], images: Tensor, labels: Tensor) -> tuple[bool, bool]:
    """`Unrolling.checkpointed` and `Unrolling.forward_mode` for what is unrolled side by side."""
    if sum(len(plan.sizes) for plan in plans) == 1:
        return False, True
    if sum(kept_bytes(plan, images, labels) for plan in plans) <= BOUND:
        return False, True
    return True, runs_forward_mode(plans[0], images, labels)


def kept_bytes(plan: Unrolling, images: Tensor, labels: Tensor) -> int:
    """About how much plain unrolling keeps, from the forward pass of the first step."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    first = plan.sizes[0]
    with saved_tensors_hooks(keep, lambda tensor: tensor), torch.enable_grad():
        values = [value.detach().requires_grad_() for value in plan.start.values()]
        graph = plan.loss(plan.named(values), images[:first], labels[:first])
    state = sum(value.numel() * value.element_size() for value in plan.initial)
    activations = sum(kept.values()) * sum(plan.sizes) / first
    del graph  # until here, so that no storage is counted in the place of another
    return int(GRAPHS * activations + 2 * state * len(plan.sizes))


def runs_forward_mode(plan: Unrolling, images: Tensor, labels: Tensor) -> bool:
    """Whether forward mode works on the model, and agrees with differentiating twice by tape."""
    part = images[: plan.sizes[0]], labels[: plan.sizes[0]]
    values = tuple(plan.start.values())
    along = tuple(torch.ones_like(value) for value in values)
    try:
        wanted = gradient_slopes(replace(plan, forward_mode=False), values, part, along)
        found = gradient_slopes(replace(plan, forward_mode=True), values, part, along)
    except (NotImplementedError, RuntimeError):
        return False
    pairs = zip((wanted[0], *wanted[1]), (found[0], *found[1]), strict=True)
    far, size = (sum(float(v) for v in column) for column in zip(*map(_distance, pairs), strict=True))
    return far <= AGREEMENT**2 * size


def _distance(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    wanted, found = pair
    return (wanted - found).square().sum(), wanted.square().sum()
