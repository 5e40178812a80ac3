"""Which array of an update belongs to which entry of the model: by name, else by order and shape."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fl_audit.core.errors import ConfigError


def match_arrays(sent: Mapping[str, Tensor], model: nn.Module) -> dict[str, str]:
    """Map names of the model's state dict to names in the update.

    Apps send their arrays under any name: Flower's own numpy helpers number them. So arrays are matched
    by name where every name fits, else in order, against the whole state dict, the state dict without
    batch-norm counters, or the parameters alone.

    Args:
        sent: arrays of the update, in the order sent.
        model: the architecture granted.

    Returns:
        State-dict name to update name; every parameter is in it.

    Raises:
        ConfigError: the arrays are not those of this architecture.
    """
    state = model.state_dict()
    parameters = [name for name, _ in model.named_parameters()]
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if all(name in sent for name in parameters) and all(name in state for name in sent):
        wrong = [name for name in sent if tuple(sent[name].shape) != shapes[name]]
        if wrong:
            name = wrong[0]
            raise ConfigError(
                f"the update does not fit the model granted to the attacker: array {name!r} has shape "
                f"{tuple(sent[name].shape)}, the model's has {shapes[name]}. Is model, image shape or "
                "class count another than the clients use?"
            )
        return {name: name for name in state if name in sent}
    counted = [name for name in state if state[name].dtype.is_floating_point]
    for candidate in (list(state), counted, parameters):
        pairs = list(zip(candidate, sent, strict=False))
        if len(candidate) == len(sent) and all(tuple(sent[b].shape) == shapes[a] for a, b in pairs):
            return dict(pairs)
    raise ConfigError(
        f"the update does not fit the model granted to the attacker: it has {len(sent)} arrays "
        f"{_preview(sent)}, the model has {len(state)} {_preview(state)}. Neither their names nor their "
        "order and shapes agree"
    )


def load_sent(model: nn.Module, sent: Mapping[str, Tensor], names: Mapping[str, str]) -> None:
    """Load the weights sent into ``model`` in place; what was not sent keeps its value."""
    with torch.no_grad():
        state = model.state_dict()
        for name, theirs in names.items():
            state[name].copy_(sent[theirs])


def _preview(arrays: Mapping[str, Tensor]) -> str:
    shown = [f"{name}{tuple(tensor.shape)}" for name, tensor in list(arrays.items())[:3]]
    return f"({', '.join(shown)}{', …' if len(arrays) > 3 else ''})"
