"""Calls of a model in training: what went in, what came out, and what the loss made of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fl_audit.federation._losses import SeenLoss

_ROUNDING = 1e-2
"""How far slopes may be from adding up to 0, relative to their size."""


@dataclass
class Output:
    """A tensor with gradient that a root module returned.

    Attributes:
        place: its key or index in what was returned; None if it was all.
        shape: its shape.
        pointer: where its values were.
        values: a copy, of tables ``(N, K)`` and lists ``(N,)``.
        slope: gradient of the loss in it, once that is known, likewise.
    """

    place: str | int | None
    shape: tuple[int, ...]
    pointer: int
    values: Tensor | None
    slope: Tensor | None = None
    differentiated: bool = False


@dataclass
class Call:
    """One call of a root module with gradient.

    Attributes:
        images: what it was fed.
        train_mode: whether it ran in train mode.
        root: the module.
        outputs: what it returned.
        originals: what a person would recognise in the images.
        anew: whether the gradients of earlier calls were thrown away before it.
        parts: modules that were called on what came out; ``outputs`` are then those of the last.
        whole: the module that holds root and parts, if that is known.
        labels: one for each image, once a loss was seen.
        loss: that loss.
        logits: the output that it was computed from, if that is clear.
    """

    images: Tensor
    train_mode: bool
    root: nn.Module
    outputs: list[Output]
    originals: Tensor | None = None
    anew: bool = False
    parts: list[nn.Module] = field(default_factory=list)
    whole: nn.Module | None = None
    labels: Tensor | None = None
    loss: SeenLoss | None = None
    logits: Output | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the logits, else of what came out first."""
        return (self.logits or self.outputs[0]).shape

    @property
    def differentiated(self) -> bool:
        """Whether the loss of a step came from it."""
        return any(output.differentiated for output in self.outputs)

    def goes_on(self, module: nn.Module, outputs: dict[str | int | None, Tensor]) -> None:
        """The next part of the model was called on what came out."""
        self.parts.append(module)
        self.outputs = noted(outputs)

    def learn(self, loss: SeenLoss) -> None:
        """Take labels and logits from a loss."""
        self.labels, self.loss = loss.labels(), loss
        where = loss.given.data_ptr()
        same = [output for output in self.outputs if output.pointer == where]
        shape = tuple(loss.given.shape)
        alike = [output for output in self.outputs if output.shape == shape]
        tables = [output for output in self.outputs if len(output.shape) == 2]
        found = next((found for found in (same, alike, tables) if len(found) == 1), [])
        self.logits = found[0] if found else None


def labels_by_slope(call: Call) -> None:
    """Labels where no loss was seen: after a softmax only the slope at the true class is negative."""
    for out in call.outputs:
        slope = out.slope
        if slope is None or slope.ndim != 2 or len(slope) != len(call.images) or slope.shape[1] < 2:
            continue
        rows = slope.cpu().float()
        adds_up = rows.sum(1).abs() <= _ROUNDING * rows.abs().sum(1)
        if bool((adds_up & ((rows < 0).sum(1) == 1)).all()):
            call.labels, call.logits = rows.argmin(1), out
            return


def images_in(values: Any) -> tuple[Tensor, ...]:
    """Copies of those tensors among ``values`` that may be images and come from outside the graph."""
    return tuple(
        copied(value)
        for value in values
        if isinstance(value, Tensor)
        and (value.is_floating_point() or (value.dtype == torch.uint8 and value.ndim == 4))
        and value.grad_fn is None
        and value.ndim > 1
        and not _inside_functorch(value)
    )


def _inside_functorch(value: Tensor) -> bool:
    """Whether a function transform of torch made this tensor: a client's own analysis, not its training."""
    wrapped: bool = torch._C._functorch.is_functorch_wrapped_tensor(value)
    return wrapped


def is_real() -> bool:
    """Whether a module that is called now computes what its client asked for, and not something about it.

    It does not while `torch.compile` traces it, nor in backward, where checkpointing calls it once more.
    """
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() == -1


def copied(images: Tensor) -> Tensor:
    return images.detach().to("cpu", torch.float32, copy=True)


def noted(outputs: dict[str | int | None, Tensor]) -> list[Output]:
    """Note outputs, which will tell when they are differentiated."""
    found = []
    for place, value in outputs.items():
        small = value.ndim in (1, 2)
        copy = value.detach().clone() if small else None
        output = Output(place, tuple(value.shape), value.data_ptr(), copy)
        value.register_hook(partial(_differentiate, output))  # type: ignore[no-untyped-call]  # torch
        found.append(output)
    return found


def _differentiate(output: Output, slope: Tensor) -> None:
    output.differentiated = True
    if output.values is not None:
        output.slope = slope.detach().clone()


def differentiable(output: Any) -> dict[str | int | None, Tensor]:
    """The tensors with a gradient in what a module returned, by key or index; None: it is all."""
    if isinstance(output, Tensor):
        return {None: output} if output.requires_grad else {}
    pairs: Iterable[tuple[Any, Any]] = ()
    if isinstance(output, dict):
        pairs = output.items()
    elif isinstance(output, list | tuple):
        pairs = enumerate(output)
    found: dict[str | int | None, Tensor] = {}
    for place, value in pairs:
        if isinstance(value, Tensor) and value.requires_grad:
            found[place if isinstance(place, str | int) else str(place)] = value
        elif isinstance(value, dict | list | tuple):
            inner = next(iter(differentiable(value).values()), None)
            if inner is not None:
                found[f"{place}"] = inner
    return found


def of_the_step(calls: list[Call]) -> list[Call]:
    """Those of ``calls`` whose gradients were not thrown away before it, as at the end of an epoch.

    Where that happened between any two calls, the client keeps them elsewhere: DP-SGD by hand, for one.
    """
    cuts = [place for place, call in enumerate(calls) if call.anew]
    return calls[cuts[-1] :] if cuts and len(cuts) < len(calls) - 1 else calls


def originals_of(pixels: Tensor, calls: Sequence[Call]) -> Tensor:
    """What a person would recognise in what the model saw, which is ``pixels`` where nobody says else."""
    parts = torch.split(pixels, [len(call.images) for call in calls])
    return torch.cat(
        [part if c.originals is None else c.originals for part, c in zip(parts, calls, strict=True)]
    )


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
