"""Reading the arrays of an update: what belongs to which entry of the model, and what the client changed.

Clients send their whole model, the difference to the one they got, or a gradient. Magnitudes tell the first
two apart: the coefficient ``<received, sent> / <sent, sent>`` is near 1 for weights and near 0 for a
difference, also under clipping, pruning and noise, which do not point along the weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fl_audit.attacks._failed import AttackFailed
from fl_audit.attacks._matching import match_arrays
from fl_audit.core.errors import ConfigError
from fl_audit.core.knowledge import Sends
from fl_audit.core.types import Update

Named = dict[str, Tensor]

MIDDLE = 0.5
"""Coefficient between a difference (0) and weights (1): both are then equally far."""

CLEAR = 0.25
"""Distance from `MIDDLE` up to which the decision is said to be close."""


@dataclass(frozen=True)
class Arrays:
    """An update by names of the model's state dict.

    Attributes:
        sent: what the server sent.
        received: what came back, as weights, but a gradient as such; only what came back.
        change: ``received - sent`` in float32, for a gradient minus that; floating-point arrays only.
        sends: what the parameters came as.
    """

    sent: Named
    received: Named
    change: Named
    sends: Sends


def read_arrays(update: Update, model: nn.Module, sends: Sends | None, notes: list[str]) -> Arrays:
    """Match the arrays of ``update`` to ``model`` and to each other.

    Args:
        update: what the server saw.
        model: the architecture granted.
        sends: what clients send; None: told from the magnitudes.
        notes: gets a sentence for each thing assumed.

    Raises:
        ConfigError: what was sent is not this architecture.
        AttackFailed: what came back is no answer to what was sent, or nothing changed.
    """
    names = match_arrays(update.sent, model, notes)
    returned = _returned(update, names, model, notes)
    sent = {ours: update.sent[theirs] for ours, theirs in names.items()}
    received = {ours: update.received[theirs] for ours, theirs in returned.items()}
    _check(sent, received)
    parameters = [name for name, _ in model.named_parameters() if name in received]
    if not parameters:
        raise AttackFailed("no parameter of the model came back, only buffers: there is nothing to invert")
    kind = _sent_as(sends, sent, received, parameters, notes)
    buffers = [name for name in received if name not in set(parameters) and _floating(received[name])]
    if kind == "delta":
        # Buffers of such a client may have come as they are.
        also = buffers if _told(_coefficient(sent, received, buffers)) == "delta" else []
        received |= {name: sent[name].float() + received[name].float() for name in (*parameters, *also)}
    if all(torch.equal(value, sent[name].to(value.dtype)) for name, value in received.items()):
        raise AttackFailed("the update is zero: the client returned the model as it was sent")
    change = {name: received[name].float() - sent[name].float() for name in (*parameters, *buffers)}
    if kind == "gradient":
        change |= {name: -received[name].float() for name in parameters}
    return Arrays(sent, received, change, kind)


def _returned(update: Update, names: Mapping[str, str], model: nn.Module, notes: list[str]) -> dict[str, str]:
    """State-dict name to received name: by the names sent, else as if the arrays were a model's."""
    found = {ours: theirs for ours, theirs in names.items() if theirs in update.received}
    if not found:
        try:
            found = match_arrays(update.received, model, [])
        except ConfigError as error:
            raise AttackFailed(
                f"the arrays that came back ({_some(update.received)}) are not those sent "
                f"({_some(update.sent)}): missing {_some(update.sent)}"
            ) from error
        found = {ours: theirs for ours, theirs in found.items() if ours in names}
        notes.append("the arrays that came back have other names: they are matched by order and shape")
        return found
    missing = [theirs for ours, theirs in names.items() if ours not in found]
    if missing:
        notes.append(f"left out, since the client did not send them back: {_some(missing)}")
    extra = [name for name in update.received if name not in update.sent]
    if extra:
        notes.append(f"left out, since they were not sent to the client: {_some(extra)}")
    return found


def _check(sent: Named, received: Named) -> None:
    for name, value in received.items():
        if value.shape != sent[name].shape:
            raise AttackFailed(
                f"array {name!r} has shape {tuple(value.shape)}, expected {tuple(sent[name].shape)}"
            )
        if _floating(value) and not bool(torch.isfinite(value).all()):
            kind = "NaN" if bool(torch.isnan(value).any()) else "inf"
            raise AttackFailed(f"array {name!r} contains {kind}")


def _sent_as(
    granted: Sends | None, sent: Named, received: Named, names: Sequence[str], notes: list[str]
) -> Sends:
    """What the parameters came back as; notes say what was assumed, is not clear or is contradicted."""
    coefficient = _coefficient(sent, received, names)
    seen = _told(coefficient)
    if granted is not None:
        if (granted == "weights") != (seen == "weights"):
            notes.append(
                f"clients are said to send {granted} (threat.sends), though what came back "
                f"{'resembles' if seen == 'weights' else 'does not resemble'} the model sent"
            )
        return granted
    if abs(coefficient - MIDDLE) < CLEAR:
        notes.append(
            f"whether weights or their change came back is not clear (coefficient {coefficient:.2f} along "
            f"the model sent): {seen} is assumed; say what clients send (threat.sends)"
        )
    elif seen == "delta":
        notes.append(
            "the arrays that came back do not resemble the model sent: they are taken as its change; if "
            "clients send gradients, say so (threat.sends)"
        )
    return seen


def _told(coefficient: float) -> Sends:
    return "weights" if coefficient >= MIDDLE else "delta"


def _coefficient(sent: Named, received: Named, names: Sequence[str]) -> float:
    """``<received, sent> / <sent, sent>``; 1 where only zeros were sent, whose weights are the change."""
    along = sum(float((received[name].double() * sent[name].double()).sum()) for name in names)
    size = sum(float(sent[name].double().square().sum()) for name in names)
    return along / size if size else 1.0


def _floating(value: Tensor) -> bool:
    return value.dtype.is_floating_point


def _some(names: Sequence[str] | Mapping[str, Tensor], most: int = 5) -> str:
    listed = list(names)
    return ", ".join(map(repr, listed[:most])) + (", …" if len(listed) > most else "")
