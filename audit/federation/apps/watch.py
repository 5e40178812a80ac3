"""What the auditor learns of an app while it runs, through PyTorch's global hooks: nothing is changed.

While a client trains, an `AppWitness` records what it trains on; at all other times the watch keeps images
that the model was evaluated on: held out from training, they serve the controls.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks

from fl_audit.core.types import GroundTruth
from fl_audit.federation.apps.job import Protection
from fl_audit.federation.apps.normalise import Normalisation, find_normalisation, fits
from fl_audit.federation.apps.origin import Norm, Origins, norm_of
from fl_audit.federation.apps.protections import of_training
from fl_audit.federation.witness import Witness, _Call, _images, _Losses
from fl_audit.models.app_model import Recipe

HELD_OUT = 256
"""Evaluated images that are kept."""

_ABANDONED = "fl_audit_abandoned"

_PLAIN_LOSSES = ("cross_entropy", "nll_loss")


def abandon(thread: threading.Thread) -> None:
    """A client ran out of time: whatever its thread still does is nobody's training any more."""
    setattr(thread, _ABANDONED, True)


def is_abandoned() -> bool:
    """Whether this is the thread of such a client."""
    return hasattr(threading.current_thread(), _ABANDONED)


class Watch:
    """What is known of the app so far.

    Args:
        input_range: what 0 and 1 of an image are at the model's input, where the user says so.
        image_shape: ``(C, H, W)`` of images that the model takes flat, where the user says so.
        model: a recipe that the user gives.
    """

    def __init__(
        self,
        *,
        input_range: tuple[float, float] | None = None,
        image_shape: tuple[int, int, int] | None = None,
        model: Recipe | None = None,
    ) -> None:
        self.origins = Origins()
        self.normalisation: Normalisation | None = None
        self.recipe: Recipe | None = None
        self.recipe_missing: str | None = None
        self.image_shape: tuple[int, int, int] | None = None
        self.classes: int | None = None
        self.parameters: int | None = None
        self.loss: str | None = None
        self.called: list[Norm] = []
        self.called_model = False
        self.protections: list[Protection] = []
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
            yield

    def losses(self) -> _Losses:
        """A mode that tells the watch the labels of evaluated images; for one thread."""
        return _Losses(self._on_loss)

    def pixels(self, inputs: Tensor) -> Tensor | str:
        """What the model was fed as images in [0, 1], or why it is none."""
        flat = inputs.ndim == 2 and self._told_shape is not None
        if flat and self._told_shape is not None:
            if inputs.shape[1] != torch.Size(self._told_shape).numel():
                return f"the model's input has {inputs.shape[1]} values, not those of --image-shape"
            inputs = inputs.reshape(-1, *self._told_shape)
        if inputs.ndim != 4 or inputs.shape[1] not in (1, 3):
            return (
                f"not a gradient of an image model: the model's input has shape {tuple(inputs.shape)}, "
                "expected images (N, 1 or 3, H, W). If these are images that the app flattens, say so: "
                "--image-shape C,H,W"
            )
        shape = (int(inputs.shape[1]), int(inputs.shape[2]), int(inputs.shape[3]))
        if self.image_shape not in (None, shape):
            return f"the images have shape {shape}, those of earlier clients {self.image_shape}"
        found = self.normalisation
        if found is None or not fits(inputs, found.norm):
            if found is not None:
                return (
                    "the model's input does not fit the normalisation found before, "
                    f"{found.how}: say what black and white are at its input: --input-range LOW,HIGH"
                )
            new = find_normalisation(inputs, self.called, self.origins.normalisations, self._told_range)
            if isinstance(new, str):
                return new
            self.normalisation = found = new
        self.image_shape = shape
        return found.undo(inputs)

    def learn(self, call: _Call) -> None:
        """Take architecture, loss and classes from one call of the model in training."""
        if self.loss is None and call.loss is not None:
            self.loss = "cross-entropy" if call.loss in _PLAIN_LOSSES else call.loss
        if self.classes is None and len(call.outputs) == 2:
            self.classes = call.outputs[1]
        if self.recipe is None and self.recipe_missing is None:
            self.parameters = sum(p.numel() for p in call.root.parameters() if p.requires_grad)
            found = self._told_model or self.origins.recipe(call.root)
            if isinstance(found, Recipe):
                self.recipe = found
            else:
                self.recipe_missing = found

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
        flat = self._told_shape is not None
        return self.recipe.model_copy(update={"mean": list(mean), "std": list(std), "flat": flat})

    def held_out(self) -> tuple[Tensor, Tensor] | None:
        """Images in [0, 1] that models were evaluated on, and labels; -1 where none was seen."""
        images, labels = [], []
        for inputs, target in self._held:
            seen = self.pixels(inputs)
            if isinstance(seen, Tensor):
                images.append(seen)
                whole = target is not None and len(target) == len(seen)
                labels.append(target if whole and target is not None else torch.full((len(seen),), -1))
        return (torch.cat(images)[:HELD_OUT], torch.cat(labels)[:HELD_OUT]) if images else None

    def _before(self, module: nn.Module, inputs: Any) -> None:
        if is_abandoned():
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
        if not is_abandoned():
            self._place.depth = getattr(self._place, "depth", 1) - 1

    def _evaluated(self, module: nn.Module, inputs: Any) -> None:
        if sum(len(images) for images, _ in self._held) >= HELD_OUT:
            return
        if next(module.parameters(), None) is None:
            return  # a transform or a loss
        seen = _images(inputs)
        if seen and seen[0].ndim in (2, 4):
            self._held.append((seen[0][:HELD_OUT], None))

    def _on_loss(self, target: Any, name: str) -> None:
        if self._held and isinstance(target, Tensor) and target.ndim == 1 and not self.training.is_set():
            images, labels = self._held[-1]
            if labels is None and len(target) >= len(images):
                self._held[-1] = images, target.detach().cpu()[: len(images)].to(torch.int64)


class AppWitness(Witness):
    """A witness that knows what the watch knows, and tells it what it sees.

    Args:
        watch: what is known of the app.
    """

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch
        self._profile = ExitStack()

    def __enter__(self) -> "AppWitness":
        self._watch.training.set()
        if self._watch.recipe is None and self._watch.recipe_missing is None:
            self._profile.enter_context(self._watch.origins.watching())
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._profile.close()
        self._watch.training.clear()

    def truth(self) -> GroundTruth | str:
        """As `Witness.truth`; the watch learns from it."""
        for step in self.steps[:1]:
            for call in step.calls[:1]:
                self._watch.learn(call)
        if not self.steps:  # an update without an optimiser still shows model and images
            for call in [call for call in self._open if call.differentiated][:1]:
                self._watch.learn(call)
                self._watch.pixels(call.images)
        return super().truth()

    def pixels(self, inputs: Tensor) -> Tensor | str:
        """As the watch reads them."""
        return self._watch.pixels(inputs)

    def _before(self, module: nn.Module, inputs: Any) -> None:
        if not is_abandoned():
            super()._before(module, inputs)

    def _after(self, module: nn.Module, inputs: Any, *rest: Any) -> None:
        if is_abandoned():
            return
        known = len(self._open)
        super()._after(module, inputs, *rest)
        if len(self._open) > known:
            self._watch.origins.stop()

    def _on_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if not is_abandoned():
            self._watch.look_at_training()
            super()._on_step(optimizer, args, kwargs)
