"""The model of an app as the attacker builds it: from the app's folder, with what it returns made logits."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fl_audit.core.errors import ConfigError
from fl_audit.core.files import write_tensors
from fl_audit.models.app_model import AppModel, Recipe

TASK = """
import pathlib
import torch
from torch import nn

CLASSES = int(pathlib.Path("data/classes.txt").read_text())


class Net(nn.Module):
    def __init__(self, returns, outputs=CLASSES):
        super().__init__()
        self.returns = returns
        self.backbone = nn.Linear(64, 8).requires_grad_(False)
        self.head = nn.Linear(8, outputs)

    def forward(self, x):
        features = self.backbone(x.flatten(1))
        logits = self.head(features)
        return {"tuple": (features, logits), "dict": {"logits": logits, "loss": None}, "plain": logits,
                "flat": logits.flatten(), "chance": logits.sigmoid()}[self.returns]


def half():
    return Net("plain").half()


class WithAge(Net):
    def forward(self, x, age):
        return super().forward(x) + age
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/classes.txt").write_text("4")
    (tmp_path / "task_of_an_app.py").write_text(TASK)
    return tmp_path


def build(app: Path, classes: int, values: Path | None = None, **recipe: Any) -> torch.nn.Module:
    spec = Recipe(target="task_of_an_app:Net", **recipe)
    return AppModel(folder=app, recipe=spec, values=values).build((1, 8, 8), classes)


def test_a_model_that_takes_more_than_images_is_said_to(app: Path) -> None:
    spec = Recipe(target="task_of_an_app:WithAge", args=["plain"])
    with pytest.raises(ConfigError, match="with images alone: .*'age'.*--model module:function"):
        AppModel(folder=app, recipe=spec).build((1, 8, 8), 4)


@pytest.mark.parametrize(("returns", "output"), [("tuple", 1), ("dict", "logits"), ("plain", None)])
def test_logits_are_picked_out_of_what_a_model_returns(
    app: Path, monkeypatch: pytest.MonkeyPatch, returns: str, output: str | int | None
) -> None:
    """Its folder is read by a relative path while it is imported, from wherever the audit runs."""
    monkeypatch.chdir(app.parent)
    model = build(Path(app.name), 4, args=[returns], output=output)
    images = torch.rand(3, 1, 8, 8)
    state = model.state_dict()
    features = images.flatten(1) @ state["backbone.weight"].T + state["backbone.bias"]
    torch.testing.assert_close(model(images), features @ state["head.weight"].T + state["head.bias"])
    assert Path.cwd() == app.parent


@pytest.mark.parametrize(("returns", "kind"), [("flat", "logit"), ("chance", "probability")])
def test_one_output_becomes_two_logits_of_the_same_chance(app: Path, returns: str, kind: str) -> None:
    model = build(app, 2, args=[returns, 1], one_logit=kind)
    images = torch.rand(3, 1, 8, 8)
    state = model.state_dict()
    features = images.flatten(1) @ state["backbone.weight"].T + state["backbone.bias"]
    chance = (features @ state["head.weight"].T + state["head.bias"]).sigmoid()
    torch.testing.assert_close(model(images).softmax(1), torch.cat([1 - chance, chance], 1))


def test_values_that_nobody_trains_are_those_that_were_seen(app: Path) -> None:
    seen = {"backbone.weight": torch.full((8, 64), 0.25)}
    write_tensors(app / "frozen.safetensors", seen)
    model = build(app, 4, values=app / "frozen.safetensors", args=["plain"])
    assert torch.equal(model.state_dict()["backbone.weight"], seen["backbone.weight"])


def test_an_app_may_keep_its_packages_below_src(app: Path) -> None:
    (app / "src/package_of_an_app").mkdir(parents=True)
    (app / "src/package_of_an_app/__init__.py").write_text("")
    (app / "task_of_an_app.py").rename(app / "src/package_of_an_app/task.py")
    spec = Recipe(target="package_of_an_app.task:Net", args=["plain"])
    assert AppModel(folder=app, recipe=spec).build((1, 8, 8), 4)(torch.rand(1, 1, 8, 8)).shape == (1, 4)
    assert not [name for name in sys.modules if name.startswith("package_of_an_app")]
    assert not [place for place in sys.path if place.startswith(str(app))]


def test_a_model_in_half_precision_is_attacked_in_float32(app: Path) -> None:
    spec = Recipe(target="task_of_an_app:half")
    model = AppModel(folder=app, recipe=spec).build((1, 8, 8), 4)
    assert model(torch.rand(1, 1, 8, 8)).dtype == torch.float32
