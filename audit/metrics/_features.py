"""What the attacked model computes just before its logits."""

import torch
from torch import Tensor, nn

BATCH = 256


def last_linear(model: nn.Module) -> bool:
    """Whether `penultimate` can read this model: it has a linear layer."""
    return any(isinstance(module, nn.Linear) for module in model.modules())


def penultimate(model: nn.Module, images: Tensor) -> Tensor:
    """The input of the linear layer that runs last, usually the classifier's, ``(N, D)``.

    Args:
        model: in eval mode, with a linear layer.
        images: float32 ``(N, C, H, W)`` in [0, 1].

    Raises:
        ValueError: no linear layer ran.
    """
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        del module
        seen[:] = [inputs[0]]

    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    handles = [layer.register_forward_pre_hook(keep) for layer in layers]
    rows = []
    try:
        for batch in torch.split(images, BATCH):
            model(batch)
            if not seen:
                raise ValueError("no linear layer ran in the attacked model")
            rows.append(seen[0].flatten(1))
    finally:
        for handle in handles:
            handle.remove()
    return torch.cat(rows)
