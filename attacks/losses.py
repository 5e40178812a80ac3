"""The loss that clients train on: one that is known by name, or a function of the user's."""

from fl_audit.core.errors import ConfigError, KnowledgeError
from fl_audit.core.losses import CROSS_ENTROPY, KNOWN_LOSSES, Loss, known_loss, mean_cross_entropy
from fl_audit.core.registry import import_object

__all__ = ["CROSS_ENTROPY", "Loss", "find_loss", "mean_cross_entropy"]


def find_loss(name: str, who: str) -> Loss:
    """The loss called ``name``.

    Args:
        name: a text that `fl_audit.core.losses.known_loss` knows, or ``module:function`` of one's own.
        who: the attack, for the message.

    Raises:
        KnowledgeError: there is no such loss; the message says how to give one.
    """
    known = known_loss(name)
    if known is not None:
        return known
    how = (
        f"attack {who!r} simulates the clients' training, which needs their loss, and the threat model says "
        f"{name!r}. Expected {', '.join(KNOWN_LOSSES)}, with settings such as "
        "cross-entropy(label_smoothing=0.1), or your own function of logits and labels as module:function "
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
