"""Finding and replacing layers of a model of any make."""

from collections.abc import Callable

from torch import nn

from fl_audit.core.errors import ConfigError


def last_linear(model: nn.Module, who: str) -> tuple[str, nn.Linear]:
    """Name and layer of the last linear layer, in the order of definition: the classifier of usual networks.

    Raises:
        ConfigError: there is none.
    """
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not found:
        raise ConfigError(
            f"defense {who!r} acts on what enters the last linear layer, and the model has none. Choose "
            "another model, or leave the defense out"
        )
    return found[-1]


def replace_layers(
    model: nn.Module, change: Callable[[nn.Module], nn.Module | None]
) -> tuple[nn.Module, int]:
    """Replace, in place, each module that ``change`` gives another one for.

    Returns:
        The model, or what it was replaced by, and how many modules were replaced. A module in several places
        is replaced by the same one everywhere; what replaced a module is not looked into.
    """
    whole = change(model)
    if whole is not None:
        return whole, 1
    made: dict[nn.Module, nn.Module | None] = {}
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is None:
                continue
            if child not in made:
                made[child] = change(child)
            new = made[child]
            if new is not None:
                parent._modules[name] = new
    return model, sum(new is not None for new in made.values())
