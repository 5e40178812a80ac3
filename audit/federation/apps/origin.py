"""Where a model came from: the calls that returned it, seen through Python's profiling hook.

A class or function of the app that gave the model can give it again, in another process and without pickle,
if its arguments are plain values. What is found is tried before it is believed.
"""

import copy
import importlib
import inspect
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from fl_audit.core.errors import ConfigError
from fl_audit.core.seeding import seeded_globals
from fl_audit.models.app_model import Recipe

_WRAPPERS = ("_orig_mod", "module", "_module")
"""Where torch.compile, DataParallel and Opacus keep the model that they wrap."""

_DEEPCOPY = copy.deepcopy.__code__
"""A copy is built as its original was."""

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")

Norm = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation for each channel."""


@dataclass(frozen=True)
class _Call:
    """A call that returned a module: ``None`` in place of arguments that are not plain values."""

    module: str
    path: str
    given: tuple[list[Any], dict[str, Any]] | None


class Origins:
    """Remembers for each module which calls returned it."""

    def __init__(self) -> None:
        self.normalisations: list[Norm] = []
        self._calls: WeakKeyDictionary[nn.Module, list[_Call]] = WeakKeyDictionary()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at every return of this thread inside the block."""
        before = sys.getprofile()
        sys.setprofile(self._profile)
        try:
            yield
        finally:
            sys.setprofile(before)

    def stop(self) -> None:
        """Look no further in this thread: every call of Python costs while it is watched."""
        if sys.getprofile() == self._profile:
            sys.setprofile(None)

    def recipe(self, model: nn.Module) -> Recipe | str:
        """How to build ``model`` again, tried in this process, or why nobody knows."""
        tried: list[str] = []
        for candidate in (model, *_inside(model)):
            for call in self._candidates(candidate):
                found = _recipe(call)
                if isinstance(found, Recipe):
                    problem = problem_of(found, Path.cwd(), candidate)
                    if problem is None:
                        return found
                    found = problem
                if found not in tried:
                    tried.append(found)
        return "; ".join(tried[:3]) or "it was not seen being built"

    def holder(self, parts: Sequence[nn.Module]) -> nn.Module | None:
        """The smallest module that was seen being built and holds all of ``parts``."""
        wanted = {id(part) for part in parts}
        holders = [made for made in self._calls if wanted <= {id(inner) for inner in made.modules()}]
        return min(holders, key=lambda made: sum(1 for _ in made.modules()), default=None)

    def _candidates(self, model: nn.Module) -> list[_Call]:
        """The outermost call first; then the class without arguments."""
        kind = type(model)
        plain = _Call(kind.__module__, kind.__qualname__, ([], {}))
        calls = [*reversed(self._calls.get(model, [])), plain]
        return [call for place, call in enumerate(calls) if call not in calls[:place]]

    def _profile(self, frame: FrameType, event: str, value: Any) -> None:
        if event != "return":
            return
        code = frame.f_code
        if code.co_name == "__init__" and code.co_argcount:
            made = frame.f_locals.get(code.co_varnames[0])
            if isinstance(made, nn.Module):
                kind = type(made)
                self._note(made, _Call(kind.__module__, kind.__qualname__, _arguments(frame, skip=1)))
                if kind.__name__ == "Normalize":
                    norm = norm_of(made)
                    if norm is not None and norm not in self.normalisations:
                        self.normalisations.append(norm)
        elif isinstance(value, nn.Module) and code is _DEEPCOPY:
            original = frame.f_locals.get("x")
            if isinstance(original, nn.Module):
                self._calls.setdefault(value, []).extend(self._calls.get(original, []))
        elif isinstance(value, nn.Module) and code.co_name not in ("__new__", "<lambda>", "<genexpr>"):
            module = frame.f_globals.get("__name__")
            if isinstance(module, str) and not module.startswith("torch."):
                self._note(value, _Call(module, code.co_qualname, _arguments(frame)))

    def _note(self, module: nn.Module, call: _Call) -> None:
        if "_modules" in module.__dict__:  # else its __init__ failed or has not begun
            self._calls.setdefault(module, []).append(call)


def norm_of(module: nn.Module) -> Norm | None:
    """Mean and deviation of a ``Normalize`` of torchvision (v1 or v2)."""
    try:
        mean = tuple(float(value) for value in module.mean)  # type: ignore[union-attr]  # a transform's
        std = tuple(float(value) for value in module.std)  # type: ignore[union-attr]
    except (AttributeError, TypeError, ValueError):
        return None
    return (mean, std) if len(mean) == len(std) and all(std) else None


def problem_of(recipe: Recipe, folder: Path, model: nn.Module) -> str | None:
    """Why ``recipe`` does not build a model like ``model``; None if it does."""
    try:
        with seeded_globals(0, "architecture"):
            made = _called(recipe) if folder == Path.cwd() else recipe.make(folder)
    except ConfigError as error:
        return str(error)
    ours, theirs = _shapes(made), _shapes(model)
    if ours != theirs:
        odd = next((name for name in [*theirs, *ours] if ours.get(name) != theirs.get(name)), "their order")
        return f"{recipe.words} builds another model: it differs in {odd}"
    return None


def frozen_values(recipe: Recipe, model: nn.Module) -> dict[str, Tensor]:
    """Values that the clients do not train and that ``recipe`` does not give again, by name.

    Weights that were loaded or drawn before training: nobody sends them, everybody has them. Statistics of
    norms are left out, which are each client's own.
    """
    try:
        with seeded_globals(0, "architecture"):
            made = _called(recipe)
    except ConfigError:
        return {}
    built = made.state_dict()
    for candidate in (model, *_inside(model)):
        values = candidate.state_dict()
        if _shapes(candidate) == _shapes(made):
            trained = {name for name, value in candidate.named_parameters() if value.requires_grad}
            return {
                name: value.detach().cpu().clone()
                for name, value in values.items()
                if name not in trained
                and name.rpartition(".")[2] not in _STATISTICS
                and not torch.equal(value.cpu(), built[name].cpu())
            }
    return {}


def _called(recipe: Recipe) -> nn.Module:
    """Call the target with the modules that this process has loaded."""
    module, _, path = recipe.target.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
        with torch.random.fork_rng(devices=[]):
            made = found(*recipe.args, **recipe.kwargs)
    except (Exception, SystemExit) as error:  # the app's code: anything can come out of it
        raise ConfigError(f"{recipe.words} failed: {type(error).__name__}: {error}") from error
    if not isinstance(made, nn.Module):
        raise ConfigError(f"{recipe.words} gave a {type(made).__name__}, expected an nn.Module")
    return made


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def _inside(model: nn.Module) -> list[nn.Module]:
    found: list[nn.Module] = []
    while True:
        inner = next((model._modules[name] for name in _WRAPPERS if name in model._modules), None)
        if inner is None:
            return found
        found.append(inner)
        model = inner


def _recipe(call: _Call) -> Recipe | str:
    where = f"{call.module}.{call.path}"
    if call.module == "__main__" or "<" in call.path:
        return f"{where} cannot be imported: it is defined inside a function or script"
    if call.given is None:
        return f"{where} was called with arguments that are no plain values"
    args, kwargs = call.given
    return Recipe(target=f"{call.module}:{call.path}", args=args, kwargs=kwargs)


def _arguments(frame: FrameType, skip: int = 0) -> tuple[list[Any], dict[str, Any]] | None:
    """The arguments of a call as JSON values; None if they are none."""
    code, values = frame.f_code, frame.f_locals
    count = code.co_argcount
    names = code.co_varnames
    try:
        args = [values[name] for name in names[skip:count]]
        kwargs = {name: values[name] for name in names[count : count + code.co_kwonlyargcount]}
        place = count + code.co_kwonlyargcount
        if code.co_flags & inspect.CO_VARARGS:
            args += values[names[place]]
            place += 1
        if code.co_flags & inspect.CO_VARKEYWORDS:
            kwargs |= values[names[place]]
        args, kwargs = [_plain(value) for value in args], {key: _plain(v) for key, v in kwargs.items()}
        args, kwargs = json.loads(json.dumps([args, kwargs], allow_nan=False))
        return args, kwargs
    except (KeyError, TypeError, ValueError, RecursionError):
        return None


def _plain(value: Any) -> Any:
    """JSON stays as it is; what is as good as JSON becomes it; anything else raises in json.dumps."""
    if isinstance(value, torch.device):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    return value
