"""Losses as a client calls them: which, on what, for which labels, as function or as module of PyTorch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_BINARY = (functional.binary_cross_entropy, functional.binary_cross_entropy_with_logits)
_LOSSES: frozenset[Callable[..., Any]] = frozenset(
    {
        *_BINARY,
        functional.cross_entropy,
        functional.nll_loss,
        functional.multi_margin_loss,
        functional.mse_loss,
        functional.l1_loss,
        functional.smooth_l1_loss,
        functional.huber_loss,
        functional.kl_div,
    }
)
_SETTINGS = ("weight", "pos_weight", "reduction", "label_smoothing")
_ROUNDING = 1e-3
"""How far the entries of a soft target may be from adding up to 1."""


@dataclass(frozen=True)
class SeenLoss:
    """One call of a loss.

    Attributes:
        name: of the function, e.g. ``cross_entropy``.
        given: what it was computed from, detached.
        target: likewise.
        settings: of weight, pos_weight, reduction and label_smoothing those that were passed.
    """

    name: str
    given: Tensor
    target: Tensor
    settings: dict[str, Any]

    @property
    def words(self) -> str:
        """As a call, e.g. ``cross_entropy(label_smoothing=0.1)``; tensors as dots."""
        usual = {"reduction": "mean", "label_smoothing": 0.0, "weight": None, "pos_weight": None}
        changed = [
            f"{key}={'...' if isinstance(value, Tensor) else value}"
            for key, value in self.settings.items()
            if isinstance(value, Tensor) or value != usual[key]
        ]
        return f"{self.name}({', '.join(changed)})" if changed else self.name

    def labels(self) -> Tensor | None:
        """Class numbers int64 ``(N,)``, of soft targets the likeliest; None if there are none."""
        values = self.target.cpu()
        binary = self.name in ("binary_cross_entropy", "binary_cross_entropy_with_logits")
        if binary and (values.ndim == 1 or values.shape[1:] == (1,)):
            values = values.flatten().float()
            inside = bool(((values >= 0) & (values <= 1)).all())
            return (values > 0.5).to(torch.int64) if inside else None
        if values.ndim == 1 and not values.is_floating_point():
            return values.to(torch.int64, copy=True)
        if values.ndim == 2 and values.shape[1] > 1:
            rows = values.float()
            adds_up = bool(((rows.sum(1) - 1).abs() < _ROUNDING).all())
            return values.argmax(1) if adds_up and float(rows.min()) >= 0 else None
        return None


class Losses(TorchFunctionMode):
    """Reports every call of a loss.

    Args:
        report: told of each.
    """

    def __init__(self, report: Callable[[SeenLoss], None]) -> None:
        super().__init__()
        self._report = report

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _LOSSES and not torch.compiler.is_compiling():
            seen = _seen(func, args, kwargs)
            if seen is not None:
                self._report(seen)
        return func(*args, **kwargs)


def _seen(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> SeenLoss | None:
    given = kwargs.get("input", args[0] if args else None)
    target = kwargs.get("target", args[1] if len(args) > 1 else None)
    if not isinstance(given, Tensor) or not isinstance(target, Tensor):
        return None
    weight = kwargs.get("weight", args[2] if len(args) > 2 and isinstance(args[2], Tensor) else None)
    settings = {key: kwargs[key] for key in _SETTINGS if kwargs.get(key) is not None}
    if weight is not None:
        settings["weight"] = weight.detach()
    return SeenLoss(func.__name__, given.detach(), target.detach(), settings)
