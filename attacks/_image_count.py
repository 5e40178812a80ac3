"""How many images an update was made of, where nobody says: the rank of a linear layer's gradient.

The gradient of a linear layer that sees one vector for each image is a sum of one outer product for each:
its rank is the number of images, or what the layer's sides allow if that is less. Residuals of a softmax add
up to zero, which takes one more away at the last layer. A matrix of full rank says nothing: it may be noise.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fl_audit.attacks.known_entries import looks_sparsified

ROUNDING = 2.0**-25
"""Root mean square of float32's relative rounding error, about: of weights that were sent back."""

VISIBLE = 4.0
"""How far a singular value must be above the largest of the rounding errors' to count."""

TINY = 1e-7
"""Singular values below this, relative to the largest, are rounding of sums in float32."""

SIDE = 160
"""Larger matrices are projected to so many rows and columns, far more than images that can be attacked."""


def images_shown(
    model: nn.Module, change: Mapping[str, Tensor], shape: tuple[int, int, int], *, sent_back: bool
) -> int | None:
    """At least so many images; None where no linear layer says, or entries were pruned.

    Args:
        model: as sent.
        change: what moved, by parameter name.
        shape: ``(C, H, W)`` of an image.
        sent_back: whether weights came back, whose rounding the change holds.
    """
    moved = list(change.values())
    if not all(bool(torch.isfinite(value).all()) for value in moved) or looks_sparsified(moved):
        return None
    ranks = []
    for name, module in plain_linear(model, shape).items():
        weight, bias = f"{name}.weight".lstrip("."), f"{name}.bias".lstrip(".")
        if weight in change:
            gradient = change[weight].detach().to("cpu", torch.float64)
            if bias in change:
                gradient = torch.cat([gradient, change[bias].detach().to("cpu", torch.float64)[:, None]], 1)
            size = float(module.weight.detach().square().mean().sqrt())
            matrix = _projected(gradient)
            rank = visible_rank(matrix, ROUNDING * size if sent_back else 0.0)
            if rank < min(matrix.shape):
                ranks.append(rank)
    return max(ranks, default=0) or None


def visible_rank(matrix: Tensor, rounding: float) -> int:
    """Singular values of ``matrix`` ``(K, D)`` above errors of standard deviation ``rounding``."""
    values = torch.linalg.svdvals(matrix)
    noise = rounding * (math.sqrt(matrix.shape[0]) + math.sqrt(matrix.shape[1]))
    return int((values > max(VISIBLE * noise, TINY * float(values[0]))).sum())


def plain_linear(model: nn.Module, shape: tuple[int, int, int]) -> dict[str, nn.Linear]:
    """The linear layers that see one vector for each image, by name; none if the model does not run."""
    found: dict[str, nn.Linear] = {}

    def hook(name: str, module: nn.Linear, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].ndim == 2 and len(inputs[0]) == 2:
            found[name] = module

    handles = [
        module.register_forward_pre_hook(lambda layer, inputs, name=name: hook(name, layer, inputs))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    device = next(model.parameters()).device
    kept = {name: value.clone() for name, value in model.named_buffers()}
    try:
        with torch.no_grad():
            model(torch.stack([torch.full(shape, 0.4), torch.full(shape, 0.6)]).to(device))
    except (RuntimeError, ValueError):
        return {}  # the probe says what is wrong
    finally:
        for handle in handles:
            handle.remove()
        with torch.no_grad():  # in train mode batch norm keeps count
            for name, value in model.named_buffers():
                value.copy_(kept[name])
    return found


def _projected(matrix: Tensor) -> Tensor:
    """The matrix with sides of `SIDE` at most, multiplied by orthonormal columns: as many images show."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        if matrix.shape[1] > SIDE:
            drawn = torch.randn(matrix.shape[1], SIDE, generator=generator, dtype=matrix.dtype)
            matrix = matrix @ torch.linalg.qr(drawn).Q
        matrix = matrix.T
    return matrix
