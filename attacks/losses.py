"""The loss that clients train on: cross-entropy, or a function of the user's."""

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import cross_entropy

from fl_audit.core.errors import ConfigError, KnowledgeError
from fl_audit.core.registry import import_object

Loss = Callable[[Tensor, Tensor], Tensor]
"""From logits ``(N, K)`` and labels int64 ``(N,)`` to a scalar, differentiable twice."""

CROSS_ENTROPY = "cross-entropy"


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the batch."""
    return cross_entropy(logits, labels)


def find_loss(name: str, who: str) -> Loss:
    """The loss called ``name``.

    Args:
        name: ``"cross-entropy"``, or ``module:function`` of one's own.
        who: the attack, for the message.

    Raises:
        KnowledgeError: there is no such loss; the message says how to give one.
    """
    if name == CROSS_ENTROPY:
        return mean_cross_entropy
    how = (
        f"attack {who!r} simulates the clients' training, which needs their loss, and the threat model says "
        f"{name!r}. Expected {CROSS_ENTROPY!r}, or your own function of logits and labels as module:function "
        "(threat.loss)"
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
