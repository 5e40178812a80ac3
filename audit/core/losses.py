"""Losses of classifiers by a text that says all about them, e.g. ``cross-entropy(label_smoothing=0.1)``.

A text of this kind travels in configurations and grants. Every loss is a function of logits ``(N, K)`` and
labels int64 ``(N,)``; targets that are not class numbers are the labels' one-hot vectors.
"""

import ast
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Loss = Callable[[Tensor, Tensor], Tensor]
"""From logits ``(N, K)`` and labels int64 ``(N,)`` to a scalar, differentiable twice."""

CROSS_ENTROPY = "cross-entropy"

_TEXT = re.compile(r"([a-z-]+)(?:\((.*)\))?", re.DOTALL)
_BEFORE: dict[str, Callable[[Tensor], Tensor]] = {
    "logits": lambda logits: logits,
    "softmax": lambda logits: logits.softmax(1),
    "sigmoid": torch.sigmoid,
}
"""What the loss is computed from."""


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the batch."""
    return functional.cross_entropy(logits, labels)


def words_of(name: str, **settings: Any) -> str:
    """The text of a loss; ``settings`` that are the usual ones are left out."""
    usual = {"reduction": "mean", "label_smoothing": 0.0, "of": "logits", "weight": None, "pos_weight": None}
    told = [f"{key}={value!r}" for key, value in settings.items() if value != usual[key]]
    return f"{name}({', '.join(told)})" if told else name


def known_loss(text: str) -> Loss | None:
    """The loss that ``text`` says; None if it is none of these.

    Known are, with settings as in `torch.nn.functional`:

    - ``cross-entropy(label_smoothing, weight, reduction)``, whose reduction may also be batchmean, the sum
      over the number of images;
    - ``binary-cross-entropy(pos_weight, weight, reduction)`` of logits;
    - ``squared-error(of, reduction)``, with ``of`` one of logits, softmax and sigmoid;
    - ``multi-margin(reduction)``.
    """
    parts = _TEXT.fullmatch(text.strip())
    if parts is None or parts[1] not in _LOSSES:
        return None
    try:
        call = ast.parse(f"f({parts[2] or ''})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            return None
        given = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
        settings = {
            key: torch.tensor(value, dtype=torch.float32) if isinstance(value, list) else value
            for key, value in given.items()
        }
        if settings.get("reduction", "mean") not in ("mean", "sum", "batchmean"):
            return None
        return (
            mean_cross_entropy
            if parts[1] == CROSS_ENTROPY and not settings
            else _LOSSES[parts[1]](**settings)
        )
    except (SyntaxError, TypeError, ValueError, KeyError):
        return None


def _cross_entropy(
    *, label_smoothing: float = 0.0, weight: Tensor | None = None, reduction: str = "mean"
) -> Loss:
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        total = functional.cross_entropy(
            logits,
            labels,
            weight=None if weight is None else weight.to(logits),
            reduction="sum" if reduction == "batchmean" else reduction,
            label_smoothing=label_smoothing,
        )
        return total / len(labels) if reduction == "batchmean" else total

    return loss


def _binary_cross_entropy(
    *, pos_weight: Tensor | None = None, weight: Tensor | None = None, reduction: str = "mean"
) -> Loss:
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(
            logits,
            _one_hot(logits, labels),
            weight=None if weight is None else weight.to(logits),
            pos_weight=None if pos_weight is None else pos_weight.to(logits),
            reduction=reduction,
        )

    return loss


def _squared_error(*, of: str = "logits", reduction: str = "mean") -> Loss:
    before = _BEFORE[of]

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return functional.mse_loss(before(logits), _one_hot(logits, labels), reduction=reduction)

    return loss


def _multi_margin(*, reduction: str = "mean") -> Loss:
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return functional.multi_margin_loss(logits, labels, reduction=reduction)

    return loss


def _one_hot(logits: Tensor, labels: Tensor) -> Tensor:
    """``(N, K)``, in place of `torch.nn.functional.one_hot`, which `torch.func.vmap` does not take."""
    return (labels[:, None] == torch.arange(logits.shape[1], device=logits.device)).to(logits.dtype)


_LOSSES: dict[str, Callable[..., Loss]] = {
    CROSS_ENTROPY: _cross_entropy,
    "binary-cross-entropy": _binary_cross_entropy,
    "squared-error": _squared_error,
    "multi-margin": _multi_margin,
}

KNOWN_LOSSES = tuple(sorted(_LOSSES))
