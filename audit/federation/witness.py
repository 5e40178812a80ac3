"""Watching an unmodified PyTorch client train: which images and labels, in which optimiser step.

PyTorch's public global hooks see every call of a module and every optimiser step of the process; a
`TorchFunctionMode` sees the losses, as function or as module, and their targets. What counts as trained on is
what entered a root module whose output was then differentiated before an optimiser step: evaluation passes
inside the training function do not. Nothing is changed: results are the same to the bit.
"""

import contextlib
import contextvars
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from flwr.app import RecordDict
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from fl_audit.core.types import GroundTruth
from fl_audit.federation._calls import (
    Call,
    copied,
    differentiable,
    images_in,
    is_real,
    labels_by_slope,
    noted,
    of_the_step,
    originals_of,
    pixels,
)
from fl_audit.federation._clipping import Clips
from fl_audit.federation._losses import Losses, SeenLoss
from fl_audit.federation._settings import Settings, read_settings, training_details

UNSEEN = "no optimiser step on a model's output was seen: this way of training cannot be watched"
"""Why there is no truth where nothing else is known."""

MOST = 2 * 2**30
"""Bytes of images that are kept of one training."""


@dataclass
class _Step:
    """One optimiser step and the calls that fed it."""

    calls: list[Call]
    settings: Settings


def report_batch(images: Tensor, originals: Tensor) -> None:
    """Tell whoever watches that the model is about to see ``images`` in place of ``originals``.

    For a client that transforms its images: what counts as leaked is the image that a person would recognise.
    Both are float32 ``(N, C, H, W)`` in [0, 1].
    """
    seen = _watching.get()
    if seen is not None:
        seen.told = copied(images), copied(originals)


def report_clipping(parameters: Sequence[Tensor], norm: float) -> None:
    """Tell whoever watches that the gradients of ``parameters`` are about to be clipped together."""
    seen = _watching.get()
    if seen is not None:
        seen.clips.note(parameters, norm, len(seen.differentiated()))


def report_skipped() -> None:
    """Tell whoever watches that the step that was due is left out."""
    seen = _watching.get()
    if seen is not None:
        seen.skip()


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
        clips: those of gradients since the last step.
    """

    steps: list[_Step] = field(default_factory=list)
    told: tuple[Tensor, Tensor] | None = None
    nothing: str = UNSEEN
    clips: Clips = field(default_factory=Clips)
    _open: list[Call] = field(default_factory=list)
    _depth: int = 0
    _entered: tuple[Tensor, ...] = ()
    _in_model: bool = False
    _bytes: int = 0
    _inner: SeenLoss | None = None
    _settings: Settings | None = None
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __enter__(self) -> "Witness":
        hooks = (
            module_hooks.register_module_forward_pre_hook(self._before),
            module_hooks.register_module_forward_hook(self._after, with_kwargs=True, always_call=True),
            register_optimizer_step_pre_hook(self._on_step),
            register_optimizer_step_post_hook(self._after_step),
        )
        for hook in hooks:
            self._stack.callback(hook.remove)
        self._stack.enter_context(Losses(self._on_loss))
        self._stack.callback(_watching.reset, _watching.set(self))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def asked(self, content: RecordDict) -> None:
        """What the client was sent, before it trains; for those who want to know."""
        del content

    def truth(self) -> GroundTruth | str:
        """The images, labels and details of this training, or why they are not to be had."""
        if not self.steps:
            return self.nothing
        if self._bytes > MOST:
            return (
                f"the client trained on more than {MOST / 2**30:g} GiB of images in this round, which are "
                "not kept: audit it with fewer local steps or epochs"
            )
        pairs = [(call, number) for number, step in enumerate(self.steps) for call in step.calls]
        if len({call.images.shape[1:] for call, _ in pairs}) > 1:
            return "the inputs of one round differ in shape"
        images = self.pixels(torch.cat([call.images for call, _ in pairs]))
        if isinstance(images, str):
            return images
        for call, _ in pairs:
            if call.labels is None:
                labels_by_slope(call)
        if any(call.labels is None for call, _ in pairs):
            return "no loss with a target for every image was seen"
        return GroundTruth(
            images=originals_of(images, [call for call, _ in pairs]),
            labels=torch.cat([call.labels for call, _ in pairs if call.labels is not None]),
            steps=torch.cat([torch.full((len(c.images),), n, dtype=torch.int64) for c, n in pairs]),
            indices=torch.full((sum(len(call.images) for call, _ in pairs),), -1, dtype=torch.int64),
            training=training_details(
                [step.settings for step in self.steps],
                batch_size=sum(len(call.images) for call in self.steps[0].calls),
                train_mode=self.steps[0].calls[0].train_mode,
            ),
        )

    def skip(self) -> None:
        """Forget what was to go into a step that is left out."""
        self._open.clear()
        self.clips.clear()
        if not self.steps:
            self.nothing = "no step was taken: GradScaler found inf or NaN in every gradient"

    def differentiated(self) -> list[Call]:
        """The calls since the last step whose output was differentiated."""
        return [call for call in self._open if call.differentiated]

    def pixels(self, inputs: Tensor) -> Tensor | str:
        """What the model was fed as images ``(N, C, H, W)`` in [0, 1], or why it is none."""
        return pixels(inputs)

    def _before(self, module: nn.Module, inputs: Any) -> None:
        if not is_real():
            return
        if self._depth == 0:
            self._in_model = next(module.parameters(), None) is not None
            self._inner = None
            if torch.is_grad_enabled() and self._in_model:
                # Copied before the model runs: it may change its input in place.
                self._entered = images_in(inputs)
        self._depth += 1

    def _after(self, module: nn.Module, inputs: Any, *rest: Any) -> None:
        # PyTorch passes (kwargs, output), but for a module that raised only (output,), which is None.
        kwargs, output = rest if len(rest) == 2 else ({}, *rest)
        if not is_real():
            return
        self._depth -= 1
        if self._depth:
            return
        entered, self._entered, self._in_model = self._entered, (), False
        outputs = differentiable(output)
        if not outputs or not any(parameter.requires_grad for parameter in module.parameters()):
            return  # an evaluation, a loss module, or a module that failed
        entered = entered or images_in(kwargs.values())
        if entered:
            self._bytes += entered[0].nbytes
            if self._bytes > MOST and self.steps:
                return
            originals = self._originals(entered[0])
            thrown = self._thrown_away(module)
            self._open.append(Call(entered[0], module.training, module, noted(outputs), originals, thrown))
            if self._inner is not None and len(self._inner.target) == len(entered[0]):
                self._open[-1].learn(self._inner)
        else:
            self._without_images(module, (*inputs, *kwargs.values()), outputs)

    def _thrown_away(self, module: nn.Module) -> bool:
        """Whether the gradients of earlier calls were removed without a step."""
        earlier = any(call.differentiated for call in self._open if call.root is module)
        return earlier and all(parameter.grad is None for parameter in module.parameters())

    def _without_images(
        self, module: nn.Module, inputs: tuple[Any, ...], outputs: dict[str | int | None, Tensor]
    ) -> None:
        """The next part of a model that is called in parts, or a model that is fed something else."""
        fed = [value for value in inputs if isinstance(value, Tensor)]
        where = {value.data_ptr() for value in fed if value.grad_fn is not None}
        if where:
            before = [call for call in self._open if where & {output.pointer for output in call.outputs}]
            for call in before or self._open[-1:]:
                call.goes_on(module, outputs)
        elif fed and not self.steps:
            kind = str(fed[0].dtype).removeprefix("torch.")
            self.nothing = (
                f"not a gradient of an image model: {type(module).__name__} is fed {kind} of shape "
                f"{tuple(fed[0].shape)}, expected images, floating point (N, 1 or 3, H, W)"
            )

    def _originals(self, images: Tensor) -> Tensor | None:
        told = self.told
        return told[1] if told is not None and torch.equal(told[0], images) else None

    def _on_loss(self, loss: SeenLoss) -> None:
        if not torch.is_grad_enabled() or loss.target.ndim < 1:
            return
        if self._in_model:  # a model that computes its own loss: the call is noted when it returns
            self._inner = self._inner or loss
            return
        for call in reversed(self._open):
            if call.labels is None and len(loss.target) == len(call.images):
                call.learn(loss)
                return

    def _on_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._settings = read_settings(optimizer)
        self._close(optimizer, self._settings)

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """What a closure computed inside the step belongs to this step."""
        self._close(optimizer, self._settings or read_settings(optimizer))
        self.clips.clear()

    def _close(self, optimizer: torch.optim.Optimizer, settings: Settings) -> None:
        calls = self.differentiated()
        if calls:
            settings = replace(settings, clip_norm=self.clips.norm(optimizer, len(calls)))
            self.steps.append(_Step(of_the_step(calls), settings))
            self._open.clear()


_watching: contextvars.ContextVar[Witness | None] = contextvars.ContextVar("witness", default=None)
