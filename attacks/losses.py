"""The loss that clients train on: cross-entropy, or a function of the user's."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import cross_entropy

from fl_audit.core.errors import ConfigError, KnowledgeError
from fl_audit.core.registry import import_object

Loss = Callable[[Tensor, Tensor], Tensor]
"""From logits ``(N, K)`` and labels int64 ``(N,)`` to a scalar, differentiable twice."""

CROSS_ENTROPY = "cross-entropy"

_SMOOTHED = re.compile(r"cross-entropy:label_smoothing=(0?\.[0-9]{1,6}|0|1(?:\.0*)?)")


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the batch."""
    return cross_entropy(logits, labels)


@dataclass(frozen=True)
class SmoothedCrossEntropy:
    """Mean cross-entropy with smoothed labels, as `torch.nn.functional.cross_entropy` has them.

    Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016, section 7.

    Attributes:
        label_smoothing: share of each label that is spread evenly over all classes.
    """

    label_smoothing: float

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch."""
        return cross_entropy(logits, labels, label_smoothing=self.label_smoothing)


def smoothed(amount: float) -> str:
    """The name of cross-entropy with so much label smoothing."""
    return f"{CROSS_ENTROPY}:label_smoothing={amount:g}"


def find_loss(name: str, who: str) -> Loss:
    """The loss called ``name``.

    Args:
        name: ``"cross-entropy"``, also with ``:label_smoothing=0.1``, or ``module:function`` of one's own.
        who: the attack, for the message.

    Raises:
        KnowledgeError: there is no such loss; the message says how to give one.
    """
    if name == CROSS_ENTROPY:
        return mean_cross_entropy
    if (found_smoothing := _SMOOTHED.fullmatch(name)) is not None:
        return SmoothedCrossEntropy(float(found_smoothing[1]))
    how = (
        f"attack {who!r} simulates the clients' training, which needs their loss, and the threat model says "
        f"{name!r}. Expected {CROSS_ENTROPY!r}, with smoothed labels {smoothed(0.1)!r}, or your own function "
        "of logits and labels as module:function (threat.loss)"
    )
    if ":" not in name:
        raise KnowledgeError(how)
    try:
        loss = import_object(name, "loss")
    except ConfigError as error:
        raise KnowledgeError(f"{how}. {error}") from None
    if not callable(loss):
        raise KnowledgeError(f"{how}. It is no function but of type {type(loss).__name__}")
    found: Loss = loss
    return found
