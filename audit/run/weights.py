"""The attacked architecture by name, and the weights that a server sent, loaded into it."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor, nn

from fl_audit.attacks._matching import load_sent, match_arrays
from fl_audit.core.files import read_model
from fl_audit.core.units import ModelSpec
from fl_audit.models import models
from fl_audit.models.app_model import APP_MODEL, AppModel, Recipe, app_modules

RECIPE = "model.json"
VALUES = "model.safetensors"
CODE = "app"
"""In the run folder of an app: how its model is built, what it holds besides, and the copy of its code."""


def model_spec(name: str, root: Path) -> ModelSpec:
    """The architecture called ``name`` in the run folder ``root``.

    Raises:
        ConfigError: no such model.
        CaptureError: it is the audited app's own, and its recipe is missing or damaged.
    """
    if name == APP_MODEL:
        recipe = read_model(root / RECIPE, Recipe, "the recipe of an app's model")
        values = root / VALUES
        return AppModel(folder=root / CODE, recipe=recipe, values=values if values.is_file() else None)
    return models.create(name)


@contextlib.contextmanager
def own_code(root: Path, name: str) -> Iterator[None]:
    """Where ``name`` is ``module:function``, let it be imported from the app in the run folder ``root``."""
    if ":" in name and (root / CODE).is_dir():
        with app_modules(root / CODE):
            yield
    else:
        yield


def load_weights(model: nn.Module, sent: Mapping[str, Tensor]) -> dict[str, str]:
    """Load what a server sent, whatever its names; returns state-dict name to name sent.

    Raises:
        ConfigError: the arrays are not those of this architecture.
    """
    names = match_arrays(sent, model, [])
    load_sent(model, {ours: sent[theirs] for ours, theirs in names.items()})
    return names
