"""The model of a user's Flower app, rebuilt from the copy of the app's code in a run folder.

No pickle: a `Recipe` names a class or function of the app and its plain arguments, and the weights come from
the captures. Building it runs the app's code, as the run itself did.
"""

import contextlib
import importlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from fl_audit.core.errors import ConfigError
from fl_audit.core.files import read_tensors
from fl_audit.core.units import ModelSpec
from fl_audit.models._blocks import check_forward

APP_MODEL = "app-model"
"""How configurations and grants name the model of the audited app."""

SOURCES = "src"
"""Folder of an app that holds its packages, where it has one."""

OneLogit = Literal["logit", "probability"]
"""What the single output of a model for two classes is."""

_LOCK = threading.RLock()


class Recipe(BaseModel):
    """How to build the app's model, and what the app does to images in [0, 1] before the model sees them.

    Attributes:
        target: ``module:name`` of a class or function, importable from the app's folder.
        args: its arguments, JSON values.
        kwargs: its named arguments, JSON values.
        mean: subtracted from the pixels, one value or one for each channel.
        std: what the pixels are divided by then, likewise.
        flat: whether the model takes flat pixels ``(N, C * H * W)``.
        output: key or index of the logits in what the model returns; None: they are all of it.
        one_logit: what the single output of a model for two classes is; None: there is one for each class.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    mean: list[float] = [0.0]
    std: list[float] = [1.0]
    flat: bool = False
    output: str | int | None = None
    one_logit: OneLogit | None = None

    @property
    def words(self) -> str:
        """As a call, e.g. ``app.task:Net(10)``."""
        given = [repr(value) for value in self.args]
        given += [f"{name}={value!r}" for name, value in self.kwargs.items()]
        return f"{self.target}({', '.join(given)})"

    def make(self, folder: Path) -> nn.Module:
        """Call the target from the app in ``folder``; the module takes what the app feeds it.

        Raises:
            ConfigError: it cannot be imported or called, or gives no module.
        """
        module_name, _, path = self.target.partition(":")
        try:
            # Apps read files of their own folder by relative paths, while they are imported too.
            with app_modules(folder), contextlib.chdir(folder):
                found: Any = importlib.import_module(module_name)
                for part in path.split("."):
                    found = getattr(found, part)
                module = found(*self.args, **self.kwargs)
        except (Exception, SystemExit) as error:  # the app's code: anything can come out of it
            raise ConfigError(
                f"the app's model cannot be built as {self.words}: {type(error).__name__}: {error}. Give a "
                "function of no arguments that builds it: --model module:function"
            ) from error
        if not isinstance(module, nn.Module):
            raise ConfigError(
                f"model {self.words}: expected an nn.Module, got {type(module).__name__}. Give a function "
                "of no arguments that builds it: --model module:function"
            )
        return module.to(device="cpu", dtype=torch.float32)


class AppModel(ModelSpec):
    """The audited app's own model; not for the registry, since it lives in a run folder.

    Its modules keep their names, so that arrays match by name. What clients do not train has the values in
    the file ``values``, until the values that a server sent are loaded. Images in [0, 1] are normalised as
    the app does it, and its logits picked out of what it returns, by hooks.
    """

    name: ClassVar[str] = APP_MODEL

    folder: Path
    recipe: Recipe
    values: Path | None = None

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Build it; images are ``(N, C, H, W)`` in [0, 1].

        Raises:
            ConfigError: it cannot be built, or does not take such images.
        """
        recipe = self.recipe
        model = recipe.make(self.folder)
        if self.values is not None:
            state = model.state_dict()
            with torch.no_grad():
                for name, value in read_tensors(self.values).items():
                    state[name].copy_(value)
        if recipe.flat or recipe.mean != [0.0] or recipe.std != [1.0]:
            model.register_forward_pre_hook(_Prepare(recipe.mean, recipe.std, recipe.flat))
        if recipe.output is not None or recipe.one_logit is not None:
            model.register_forward_hook(_Logits(recipe.output, recipe.one_logit))
        try:
            check_forward(recipe.words, model, image_shape, num_classes)
        except ConfigError:
            raise
        except Exception as error:  # the app's code: anything can come out of it
            raise ConfigError(
                f"the app's model {recipe.words} cannot be called with images alone: {type(error).__name__}: "
                f"{error}. Give a function that builds one which takes images and nothing else: "
                "--model module:function"
            ) from error
        return model

    def params(self) -> dict[str, Any]:
        """The recipe."""
        return self.recipe.model_dump(mode="json", exclude_defaults=True, exclude={"target"})


class _Prepare:
    """What the app does to images in [0, 1] before its model gets them."""

    def __init__(self, mean: list[float], std: list[float], flat: bool) -> None:
        self._mean = torch.tensor(mean).view(1, -1, 1, 1)
        self._std = torch.tensor(std).view(1, -1, 1, 1)
        self._flat = flat

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Replace the first input."""
        images = inputs[0]
        images = (images - self._mean.to(images)) / self._std.to(images)
        return (images.flatten(1) if self._flat else images, *inputs[1:])


class _Logits:
    """From what the model returns to logits ``(N, K)``."""

    def __init__(self, output: str | int | None, one_logit: OneLogit | None) -> None:
        self._output, self._one_logit = output, one_logit

    def __call__(self, module: nn.Module, inputs: Any, returned: Any) -> Any:
        """Replace the output."""
        found = returned if self._output is None else returned[self._output]
        return found if self._one_logit is None else two_logits(found, self._one_logit)


def two_logits(values: Tensor, kind: OneLogit) -> Tensor:
    """``(N, 2)`` whose softmax is the chance of each class that ``(N,)`` or ``(N, 1)`` values say."""
    values = values.reshape(len(values))
    if kind == "logit":
        return torch.stack([torch.zeros_like(values), values], 1)
    least = torch.finfo(values.dtype).tiny
    return torch.stack([(1 - values).clamp_min(least).log(), values.clamp_min(least).log()], 1)


@contextlib.contextmanager
def app_modules(folder: Path) -> Iterator[None]:
    """Import from ``folder`` first inside the block, and forget its modules afterwards.

    Two apps may have modules of the same name, and so may an app and the program that audits it.
    """
    folder = folder.resolve()
    with _LOCK:
        own = _own_names(folder)
        hidden = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in own}
        for name in hidden:
            del sys.modules[name]
        places = [str(place) for place in (folder, folder / SOURCES) if place.is_dir()]
        sys.path[:0] = places
        importlib.invalidate_caches()
        try:
            yield
        finally:
            for place in places:
                sys.path.remove(place)
            for name in [name for name in sys.modules if name.partition(".")[0] in own]:
                del sys.modules[name]
            sys.modules.update(hidden)


def _own_names(folder: Path) -> frozenset[str]:
    """Top-level modules and packages of ``folder``."""
    files = {path.stem for path in (*folder.glob("*.py"), *folder.glob(f"{SOURCES}/*.py"))}
    packages = {path.parent.name for path in (*folder.glob("*/*.py"), *folder.glob(f"{SOURCES}/*/*.py"))}
    return frozenset(files | packages) - frozenset({"fl_audit", "torch", "numpy"})
