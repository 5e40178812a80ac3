"""Operations that automatic differentiation gets wrong or cannot do twice, in terms of those that it can.

PyTorch's fused batch, instance and layer norm save the statistics of the input and, in forward mode and under
`torch.func.vmap`, differentiate as if those did not depend on it: the gradient of a gradient is then wrong,
without an error (seen in PyTorch 2.15 for norms by batch statistics; a test here fails where this changes).
Fused attention has no second derivative at all on a CPU. And dropout by function call draws from the global
generator even in eval mode.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode


@contextmanager
def plain_ops() -> Iterator[None]:
    """Run models with norms and attention that can be differentiated twice in any mode, without dropout."""
    with sdpa_kernel(SDPBackend.MATH), _Replace():
        yield


def needs_plain_ops(run: Callable[[], object]) -> bool:
    """Whether `plain_ops` changes anything of what ``run`` calls."""
    mode = _Replace()
    with sdpa_kernel(SDPBackend.MATH), mode:
        run()
    return mode.used


class _Replace(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.used = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        replacement = _REPLACEMENTS.get(func)
        made = None if replacement is None else replacement(*args, **(kwargs or {}))
        self.used = self.used or made is not None or func in _ATTENTION
        return func(*args, **(kwargs or {})) if made is None else made


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    """By batch statistics; None, and so PyTorch's own, by running ones."""
    if not training:
        return None
    shape = (1, -1, *(1,) * (input.ndim - 2))
    return _normalised(input, [0, *range(2, input.ndim)], weight, bias, shape, eps)


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    if not use_input_stats:
        return None
    shape = (1, -1, *(1,) * (input.ndim - 2))
    return _normalised(input, list(range(2, input.ndim)), weight, bias, shape, eps)


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    shape = tuple(normalized_shape)
    return _normalised(input, list(range(-len(shape), 0)), weight, bias, shape, eps)


def _normalised(
    values: Tensor,
    over: list[int],
    weight: Tensor | None,
    bias: Tensor | None,
    shape: tuple[int, ...],
    eps: float,
) -> Tensor:
    centred = values - values.mean(over, keepdim=True)
    normal = centred * torch.rsqrt(centred.square().mean(over, keepdim=True) + eps)
    if weight is not None:
        normal = normal * weight.view(shape)
    return normal if bias is None else normal + bias.view(shape)


def _no_dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor | None:
    return input if training else None


def _no_alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Tensor | None:
    return input if training else None


_REPLACEMENTS: dict[Callable[..., Any], Callable[..., Tensor | None]] = {
    functional.batch_norm: _batch_norm,
    functional.instance_norm: _instance_norm,
    functional.layer_norm: _layer_norm,
    functional.dropout: _no_dropout,
    functional.dropout1d: _no_dropout,
    functional.dropout2d: _no_dropout,
    functional.dropout3d: _no_dropout,
    functional.alpha_dropout: _no_alpha_dropout,
    functional.feature_alpha_dropout: _no_alpha_dropout,
}
"""None where PyTorch's own does."""
_ATTENTION = (functional.scaled_dot_product_attention, functional.multi_head_attention_forward)
