"""Which array of an update belongs to which entry of the model: by name, else by order and shape."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fl_audit.core.errors import ConfigError

RECORD = "/"
"""What separates the name of a further record from that of its array; no parameter's name has it."""


def match_arrays(sent: Mapping[str, Tensor], model: nn.Module, notes: list[str]) -> dict[str, str]:
    """Map names of the model's state dict to names in the update.

    Apps send their arrays under any name: Flower's own numpy helpers number them. So arrays are matched
    by name where every name fits, also but for one prefix, else in order, against the whole state dict, the
    state dict without batch-norm counters, the parameters, or the trained ones alone. Parameters that the
    model does not train need not travel, and arrays of further records (``record/name``), e.g. control
    variates, are no part of the model.

    Args:
        sent: arrays of the update, in the order sent.
        model: the architecture granted.
        notes: gets a sentence for each thing left out.

    Returns:
        State-dict name to update name; every trainable parameter is in it.

    Raises:
        ConfigError: the arrays are not those of this architecture.
    """
    state = model.state_dict()
    aside = [name for name in sent if RECORD in name]
    if aside and len(aside) < len(sent):
        notes.append(f"left out, since they came in a record of their own: {', '.join(aside[:5])}")
        sent = {name: value for name, value in sent.items() if RECORD not in name}
    parameters = [name for name, _ in model.named_parameters()]
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    own = _own_names(sent, shapes)
    if trainable and own is not None and all(name in own for name in trainable):
        wrong = [name for name, theirs in own.items() if tuple(sent[theirs].shape) != shapes[name]]
        if wrong:
            name = wrong[0]
            raise ConfigError(
                f"the update does not fit the model granted to the attacker: array {own[name]!r} has shape "
                f"{tuple(sent[own[name]].shape)}, the model's has {shapes[name]}. Is model, image shape or "
                "class count another than the clients use?"
            )
        frozen = [name for name in parameters if name not in own]
        if frozen:
            notes.append(
                "did not travel, so that the values of the model granted are taken: " + ", ".join(frozen[:5])
            )
        return {name: own[name] for name in state if name in own}
    counted = [name for name in state if state[name].dtype.is_floating_point]
    for candidate in (list(state), counted, parameters, trainable):
        pairs = list(zip(candidate, sent, strict=False))
        if len(candidate) == len(sent) and all(tuple(sent[b].shape) == shapes[a] for a, b in pairs):
            return dict(pairs)
    kept = [name for name in trainable if name not in (own or {})]
    if own:
        raise ConfigError(
            f"the clients train {', '.join(kept[:5])}{', …' if len(kept) > 5 else ''} without these ever "
            "travelling (personalised layers): the attacks simulate the whole model and cannot do so without "
            "them. That is no proof of safety: an attacker may guess them"
        )
    raise ConfigError(
        f"the update does not fit the model granted to the attacker: it has {len(sent)} arrays "
        f"{_preview(sent)}, the model has {len(state)} {_preview(state)}. Neither their names nor their "
        "order and shapes agree"
    )


def _own_names(sent: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str] | None:
    """State-dict name to name sent, as they are, or with one prefix added or taken away; None if none fits.

    A prefix is missing where an app sends the state dict of a part of its model, e.g. of its head, and one
    too many where the model was wrapped, e.g. by `torch.nn.DataParallel`.
    """
    if all(name in shapes for name in sent):
        return {name: name for name in sent}
    first = next(iter(sent))
    added = {name[: -len(first)] for name in shapes if name.endswith(f".{first}")}
    found = [{f"{prefix}{name}": name for name in sent} for prefix in sorted(added)]
    found.append({name.partition(".")[2]: name for name in sent})
    fitting = [
        names
        for names in found
        if all(shapes.get(ours) == tuple(sent[theirs].shape) for ours, theirs in names.items())
    ]
    return fitting[0] if len(fitting) == 1 else None


def load_sent(model: nn.Module, sent: Mapping[str, Tensor]) -> None:
    """Load the weights sent, by state-dict name, into ``model`` in place; the rest keeps its value."""
    with torch.no_grad():
        state = model.state_dict()
        for name, value in sent.items():
            state[name].copy_(value)


def _preview(arrays: Mapping[str, Tensor]) -> str:
    shown = [f"{name}{tuple(tensor.shape)}" for name, tensor in list(arrays.items())[:3]]
    return f"({', '.join(shown)}{', …' if len(arrays) > 3 else ''})"
