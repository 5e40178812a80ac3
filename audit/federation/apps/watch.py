"""What the auditor learns of an app while it runs, through PyTorch's global hooks: nothing is changed.

While a client trains, an `AppWitness` records what it trains on and tells the watch what it sees; at all
other times the watch keeps images that the model was evaluated on: held out from training, they serve the
controls.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks

from fl_audit.federation._calls import Call, images_in, is_real
from fl_audit.federation._clipping import clipping_told
from fl_audit.federation._losses import Losses, SeenLoss
from fl_audit.federation._scaling import skipped_told
from fl_audit.federation.apps.job import Protection
from fl_audit.federation.apps.loss import loss_of, one_logit
from fl_audit.federation.apps.normalise import (
    Normalisation,
    as_images,
    contradicts,
    find_normalisation,
    fits,
    shape_of,
)
from fl_audit.federation.apps.origin import Norm, Origins, frozen_values, norm_of
from fl_audit.federation.apps.protections import of_training
from fl_audit.federation.witness import report_clipping, report_skipped
from fl_audit.models.app_model import OneLogit, Recipe

HELD_OUT = 256
"""Evaluated images that are kept."""

_ABANDONED = "fl_audit_abandoned"


def abandon(thread: threading.Thread) -> None:
    """A client ran out of time: whatever its thread still does is nobody's training any more."""
    setattr(thread, _ABANDONED, True)


def is_abandoned() -> bool:
    """Whether this is the thread of such a client."""
    return hasattr(threading.current_thread(), _ABANDONED)


class Watch:
    """What is known of the app so far.

    Args:
        input_range: what 0 and 1 of an image are at the model's input, for all channels or for each, where
            the user says so.
        image_shape: ``(C, H, W)`` of images that the model takes flat, where the user says so.
        model: a recipe that the user gives.
    """

    def __init__(
        self,
        *,
        input_range: tuple[float, ...] | None = None,
        image_shape: tuple[int, int, int] | None = None,
        model: Recipe | None = None,
    ) -> None:
        self.origins = Origins()
        self.normalisation: Normalisation | None = None
        self.recipe: Recipe | None = None
        self.recipe_missing: str | None = None
        self.frozen: dict[str, Tensor] = {}
        self.image_shape: tuple[int, int, int] | None = None
        self.classes: int | None = None
        self.parameters: int | None = None
        self.own_start: list[str] = []
        self.loss: str | None = None
        self.other_losses: set[str] = set()
        self.other_norms = False
        self.output: str | int | None = None
        self.one_logit: OneLogit | None = None
        self.called: list[Norm] = []
        self.called_model = False
        self.protections: list[Protection] = []
        self.half = False
        self.uncompiled = False
        self._looked = False
        self.training = threading.Event()
        self._told_range, self._told_shape, self._told_model = input_range, image_shape, model
        self._held: list[tuple[Tensor, Tensor | None]] = []
        self._place = threading.local()

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Watch every module of the process inside the block."""
        with ExitStack() as stack:
            before = module_hooks.register_module_forward_pre_hook(self._before)
            after = module_hooks.register_module_forward_hook(self._after, always_call=True)
            stack.callback(before.remove)
            stack.callback(after.remove)
            # From before the app is imported: it may take the function from its module then.
            stack.enter_context(clipping_told(report_clipping))
            stack.enter_context(skipped_told(report_skipped))
            stack.callback(setattr, nn.Module, "compile", nn.Module.compile)
            nn.Module.compile = self._not_compiled  # type: ignore[method-assign]
            yield

    def _not_compiled(self, *options: Any, **settings: Any) -> None:
        """In place of compiling a module where it is, which would compile the hooks into it."""
        self.uncompiled = True

    def losses(self) -> Losses:
        """A mode that tells the watch the labels of evaluated images; for one thread."""
        return Losses(self._on_loss)

    def pixels(self, inputs: Tensor) -> Tensor | str:
        """What the model was fed as images in [0, 1], or why it is none."""
        shaped = as_images(inputs, self._told_shape, self.image_shape)
        if isinstance(shaped, str):
            return shaped
        known = self.normalisation
        if known is not None and self._told_range is None:
            self.other_norms |= contradicts(shaped, known.norm, self.called, self.origins.normalisations)
        found = self._normalisation(shaped, known)
        if isinstance(found, str):
            return found
        self.normalisation, self.image_shape = found, shape_of(shaped)
        return found.undo(shaped)

    def _normalisation(self, inputs: Tensor, known: Normalisation | None) -> Normalisation | str:
        """The ``known`` one, or that which these inputs show, if they fit it; else why there is none."""
        found: Normalisation | str | None = known
        if found is None:
            found = find_normalisation(inputs, self.called, self.origins.normalisations, self._told_range)
        if isinstance(found, str) or fits(inputs, found.norm):
            return found
        return (
            "the model's input does not fit the normalisation found before, "
            f"{found.how}: say what black and white are at its input: --input-range LOW,HIGH"
        )

    def learn(self, calls: Sequence[Call]) -> None:
        """Take architecture, loss and classes from the calls of the model in one step of training."""
        call = calls[0]
        kinds = {out.values.dtype for out in call.outputs if out.values is not None}
        self.half = self.half or bool(kinds & {torch.float16, torch.bfloat16})
        loss = loss_of(calls)
        self.loss = self.loss or loss
        if loss is not None and loss != self.loss:
            self.other_losses.add(loss)
        if self.classes is None:
            self.one_logit = one_logit(call)
            shape = call.shape
            self.classes = 2 if self.one_logit is not None else shape[1] if len(shape) == 2 else None
            self.output = None if call.logits is None else call.logits.place
        if self.recipe is None and self.recipe_missing is None:
            root = call.whole or call.root
            self.parameters = sum(p.numel() for p in root.parameters() if p.requires_grad)
            found = self._told_model or self.origins.recipe(root)
            if call.parts and call.whole is None and self._told_model is None:
                names = ", then ".join(type(part).__name__ for part in (call.root, *call.parts))
                found = f"it is called in parts ({names}), which no one module was seen to hold"
            if isinstance(found, Recipe):
                self.recipe, self.frozen = found, frozen_values(found, root)
            else:
                self.recipe_missing = found

    def began_with(self, module: nn.Module, sent: Mapping[str, Tensor]) -> None:
        """Note which parameters a client begins to train with other values than it was sent."""
        own = [
            name
            for name, mine, value in _paired(module, sent)
            if mine.shape == value.shape and not torch.equal(mine.detach().cpu().to(value.dtype), value)
        ]
        self.own_start = self.own_start or own

    def look_at_training(self) -> None:
        """A client's optimiser is about to step, for the first time: see what protects its examples."""
        if not self._looked:
            self._looked = True
            self.protections = of_training()

    def complete_recipe(self) -> Recipe | None:
        """The recipe with what the app does to images, once both are known."""
        if self.recipe is None or self.normalisation is None:
            return None
        mean, std = self.normalisation.norm
        return self.recipe.model_copy(
            update={
                "mean": list(mean),
                "std": list(std),
                "flat": self._told_shape is not None,
                "output": self.output,
                "one_logit": self.one_logit,
            }
        )

    def held_out(self) -> tuple[Tensor, Tensor] | None:
        """Images in [0, 1] that models were evaluated on, and labels; -1 where none was seen.

        Nothing that they show counts for the training, which may come later and look otherwise.
        """
        images, labels = [], []
        known, shape = self.normalisation, self.image_shape
        for inputs, target in self._held:
            shaped = as_images(inputs, self._told_shape, shape)
            found = shaped if isinstance(shaped, str) else self._normalisation(shaped, known)
            if not isinstance(shaped, str) and not isinstance(found, str):
                known, shape = found, shape_of(shaped)
                images.append(found.undo(shaped))
                whole = target is not None and len(target) == len(shaped)
                labels.append(target if whole and target is not None else torch.full((len(shaped),), -1))
        return (torch.cat(images)[:HELD_OUT], torch.cat(labels)[:HELD_OUT]) if images else None

    def _before(self, module: nn.Module, inputs: Any) -> None:
        if not is_real() or is_abandoned():
            return
        depth = getattr(self._place, "depth", 0)
        self._place.depth = depth + 1
        if depth:
            return
        self.called_model = self.called_model or next(module.parameters(), None) is not None
        if type(module).__name__ == "Normalize":
            norm = norm_of(module)
            if norm is not None and (not self.called or self.called[0] != norm):
                self.called = [norm, *(other for other in self.called if other != norm)]
        elif not self.training.is_set() and not torch.is_grad_enabled():
            self._evaluated(module, inputs)

    def _after(self, module: nn.Module, inputs: Any, *rest: Any) -> None:
        if is_real() and not is_abandoned():
            self._place.depth = getattr(self._place, "depth", 1) - 1

    def _evaluated(self, module: nn.Module, inputs: Any) -> None:
        if sum(len(images) for images, _ in self._held) >= HELD_OUT:
            return
        if next(module.parameters(), None) is None:
            return  # a transform or a loss
        seen = images_in(inputs)
        if seen and seen[0].ndim in (2, 4):
            self._held.append((seen[0][:HELD_OUT], None))

    def _on_loss(self, loss: SeenLoss) -> None:
        labels = loss.labels() if self._held and not self.training.is_set() else None
        if labels is not None:
            images, known = self._held[-1]
            if known is None and len(labels) >= len(images):
                self._held[-1] = images, labels[: len(images)]


def _paired(module: nn.Module, sent: Mapping[str, Tensor]) -> Iterator[tuple[str, nn.Parameter, Tensor]]:
    """Trained parameters and what was sent for each: by name, else by order where the numbers are equal."""
    trained = {name: value for name, value in module.named_parameters() if value.requires_grad}
    state = list(module.state_dict())
    if len(state) == len(sent) and not set(trained) & set(sent):
        sent = dict(zip(state, sent.values(), strict=True))
    for name, value in trained.items():
        theirs = sent.get(name, sent.get(name.partition(".")[2]))
        if theirs is not None:
            yield name, value, theirs
