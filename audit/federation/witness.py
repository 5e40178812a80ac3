"""Watching an unmodified PyTorch client train: which images and labels, in which optimiser step.

PyTorch's public global hooks see every call of a module and every optimiser step of the process; a
`TorchFunctionMode` sees the losses, as function or as module, and their targets. What counts as trained on is
what entered a root module whose output was then differentiated before an optimiser step: evaluation passes
inside the training function do not. Nothing is changed: results are the same to the bit.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as module_hooks
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.overrides import TorchFunctionMode

from fl_audit.core.types import GroundTruth
from fl_audit.federation._settings import Settings, read_settings, training_details

_LOSSES: frozenset[Callable[..., Any]] = frozenset(
    {
        functional.cross_entropy,
        functional.nll_loss,
        functional.multi_margin_loss,
        functional.binary_cross_entropy,
        functional.binary_cross_entropy_with_logits,
        functional.mse_loss,
        functional.kl_div,
    }
)


@dataclass
class _Call:
    """One call of a root module with gradient; ``originals`` is what a person would recognise in it."""

    images: Tensor
    train_mode: bool
    root: nn.Module
    outputs: tuple[int, ...]
    originals: Tensor | None = None
    labels: Tensor | None = None
    loss: str | None = None
    differentiated: bool = False


@dataclass
class _Step:
    """One optimiser step and the calls that fed it."""

    calls: list[_Call]
    settings: Settings


def report_batch(images: Tensor, originals: Tensor) -> None:
    """Tell whoever watches that the model is about to see ``images`` in place of ``originals``.

    For a client that transforms its images: what counts as leaked is the image that a person would recognise.
    Both are float32 ``(N, C, H, W)`` in [0, 1].
    """
    seen = _watching.get()
    if seen is not None:
        seen.told = _copy(images), _copy(originals)


def report_nothing(reason: str) -> None:
    """Tell whoever watches why no image was used."""
    seen = _watching.get()
    if seen is not None:
        seen.nothing = reason


@dataclass
class Witness:
    """What was seen. Use as ``with Witness() as seen: train()``, then ask `truth`.

    Attributes:
        steps: the optimiser steps that images fed.
        told: images that are about to be seen, and the originals that they stand for.
        nothing: why no image was used, where the client says so.
    """

    steps: list[_Step] = field(default_factory=list)
    told: tuple[Tensor, Tensor] | None = None
    nothing: str = "no optimiser step on a model's output was seen: this way of training cannot be watched"
    _open: list[_Call] = field(default_factory=list)
    _depth: int = 0
    _entered: tuple[Tensor, ...] = ()
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __enter__(self) -> "Witness":
        hooks = (
            module_hooks.register_module_forward_pre_hook(self._before),
            module_hooks.register_module_forward_hook(self._after, with_kwargs=True, always_call=True),
            register_optimizer_step_pre_hook(self._on_step),
        )
        for hook in hooks:
            self._stack.callback(hook.remove)
        self._stack.enter_context(_Losses(self._on_loss))
        self._stack.callback(_watching.reset, _watching.set(self))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def truth(self) -> GroundTruth | str:
        """The images, labels and details of this training, or why they are not to be had."""
        if not self.steps:
            return self.nothing
        pairs = [(call, number) for number, step in enumerate(self.steps) for call in step.calls]
        if len({call.images.shape[1:] for call, _ in pairs}) > 1:
            return "the inputs of one round differ in shape"
        images = self.pixels(torch.cat([call.images for call, _ in pairs]))
        if isinstance(images, str):
            return images
        if any(call.labels is None for call, _ in pairs):
            return "no loss with a target for every image was seen"
        return GroundTruth(
            images=_originals(images, [call for call, _ in pairs]),
            labels=torch.cat([call.labels for call, _ in pairs if call.labels is not None]),
            steps=torch.cat([torch.full((len(c.images),), n, dtype=torch.int64) for c, n in pairs]),
            indices=torch.full((sum(len(call.images) for call, _ in pairs),), -1, dtype=torch.int64),
            training=training_details(
                [step.settings for step in self.steps],
                batch_size=sum(len(call.images) for call in self.steps[0].calls),
                train_mode=self.steps[0].calls[0].train_mode,
            ),
        )

    def pixels(self, inputs: Tensor) -> Tensor | str:
        """What the model was fed as images ``(N, C, H, W)`` in [0, 1], or why it is none."""
        return pixels(inputs)

    def _before(self, module: nn.Module, inputs: Any) -> None:
        if self._depth == 0 and torch.is_grad_enabled() and next(module.parameters(), None) is not None:
            # Copied before the model runs: it may change its input in place.
            self._entered = _images(inputs)
        self._depth += 1

    def _after(self, module: nn.Module, inputs: Any, *rest: Any) -> None:
        # PyTorch passes (kwargs, output), but for a module that raised only (output,), which is None.
        kwargs, output = rest if len(rest) == 2 else ({}, *rest)
        self._depth -= 1
        if self._depth:
            return
        entered, self._entered = self._entered, ()
        result = _differentiable(output)
        if result is None or not any(parameter.requires_grad for parameter in module.parameters()):
            return  # an evaluation, a loss module, or a module that failed
        entered = entered or _images(kwargs.values())
        if entered:
            call = _Call(
                entered[0], module.training, module, tuple(result.shape), self._originals(entered[0])
            )
            self._open.append(call)
            result.register_hook(lambda _: setattr(call, "differentiated", True))  # type: ignore[no-untyped-call]  # torch

    def _originals(self, images: Tensor) -> Tensor | None:
        told = self.told
        return told[1] if told is not None and torch.equal(told[0], images) else None

    def _on_loss(self, target: Any, name: str) -> None:
        if isinstance(target, Tensor) and torch.is_grad_enabled():
            for call in reversed(self._open):
                if call.labels is None and target.ndim >= 1 and len(target) == len(call.images):
                    call.labels, call.loss = _labels(target), name
                    return

    def _on_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        calls = [call for call in self._open if call.differentiated]
        if calls:
            self.steps.append(_Step(calls, read_settings(optimizer)))
            self._open.clear()


_watching: contextvars.ContextVar[Witness | None] = contextvars.ContextVar("witness", default=None)


class _Losses(TorchFunctionMode):
    """Reports target and name of every loss."""

    def __init__(self, report: Callable[[Any, str], None]) -> None:
        super().__init__()
        self._report = report

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _LOSSES:
            self._report(kwargs.get("target", args[1] if len(args) > 1 else None), _loss_name(func, kwargs))
        return func(*args, **kwargs)


def _loss_name(func: Any, kwargs: dict[str, Any]) -> str:
    """``cross_entropy``, or e.g. ``cross_entropy(label_smoothing=0.1)`` where that changes what it is."""
    usual = {"reduction": "mean", "label_smoothing": 0.0, "weight": None}
    changed = [
        f"{key}={kwargs[key]}"
        for key in usual
        if key != "weight" and kwargs.get(key, usual[key]) != usual[key]
    ]
    changed += ["weight=..."] if kwargs.get("weight") is not None else []
    return f"{func.__name__}({', '.join(changed)})" if changed else str(func.__name__)


def _originals(pixels: Tensor, calls: Sequence[_Call]) -> Tensor:
    """What a person would recognise in what the model saw, which is ``pixels`` where nobody says else."""
    parts = torch.split(pixels, [len(call.images) for call in calls])
    return torch.cat(
        [part if c.originals is None else c.originals for part, c in zip(parts, calls, strict=True)]
    )


def _images(values: Any) -> tuple[Tensor, ...]:
    """Copies of those floating-point tensors among ``values`` that come from outside the graph."""
    return tuple(
        _copy(value)
        for value in values
        if isinstance(value, Tensor)
        and value.is_floating_point()
        and value.grad_fn is None
        and value.ndim > 1
        and not _inside_functorch(value)
    )


def _inside_functorch(value: Tensor) -> bool:
    """Whether a function transform of torch made this tensor: a client's own analysis, not its training."""
    wrapped: bool = torch._C._functorch.is_functorch_wrapped_tensor(value)
    return wrapped


def _copy(images: Tensor) -> Tensor:
    return images.detach().to("cpu", torch.float32, copy=True)


def _differentiable(output: Any) -> Tensor | None:
    """The first tensor with a gradient in what a module returned."""
    if isinstance(output, Tensor):
        return output if output.requires_grad else None
    values: Iterator[Any] = iter(())
    if isinstance(output, dict):
        values = iter(output.values())
    elif isinstance(output, list | tuple):
        values = iter(output)
    return next((found for value in values if (found := _differentiable(value)) is not None), None)


def _labels(target: Tensor) -> Tensor | None:
    """Class numbers of a target: integers ``(N,)``, or the largest entry of ``(N, classes)``."""
    values = target.detach().cpu()
    if values.ndim == 1 and not values.is_floating_point():
        return values.to(torch.int64, copy=True)
    if values.ndim == 2 and values.shape[1] > 1:
        return values.argmax(1)
    return None


def pixels(inputs: Tensor) -> Tensor | str:
    """``inputs``, if they are images ``(N, C, H, W)`` in [0, 1]; else why not."""
    if inputs.ndim != 4 or inputs.shape[1] not in (1, 3):
        return f"the model's input has shape {tuple(inputs.shape)}, expected images (N, 1 or 3, H, W)"
    low, high = float(inputs.min()), float(inputs.max())
    if not (low >= 0 and high <= 1):
        return (
            f"the model's input runs from {low:.3g} to {high:.3g}, expected [0, 1]: "
            "make normalisation the first layer of the model"
        )
    return inputs
