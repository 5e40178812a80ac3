"""The example that makes real reconstructions: its side-by-side gradients are those of autograd."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.nn.functional import cross_entropy

from fl_audit.core.seeding import seeded_globals
from fl_audit.models import models
from fl_audit.semsim.pictures import Pictures

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "semsim_reconstructions.py"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("semsim_reconstructions", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        spec.loader.exec_module(module)
        yield module


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", ["lenet", "convnet:width=2", "resnet20-4:factor=1"])
def test_side_by_side_gradients_are_autograds(script: ModuleType, name: str, batch: int) -> None:
    with seeded_globals(0, "test"):
        model = models.create(name).build((3, 32, 32), 10).eval()
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(4, 3, 32, 32, generator=generator), torch.tensor([1, 5, 5, 9])
    found = torch.cat(script.updates(model.requires_grad_(False), images, labels, batch, graph=False), 1)
    parts = [layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)]
    order: list[torch.nn.Module] = []
    handles = [layer.register_forward_hook(lambda module, *_: order.append(module)) for layer in parts]
    model(images)
    for handle in handles:
        handle.remove()
    wanted = [p for layer in order for p in layer.parameters()]
    model.requires_grad_(True)
    for group in range(4 // batch):
        rows = slice(group * batch, (group + 1) * batch)
        loss = cross_entropy(model(images[rows]), labels[rows])
        expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, wanted)])
        torch.testing.assert_close(found[group], expected, rtol=1e-4, atol=1e-6)


def test_an_easy_update_is_inverted(script: ModuleType) -> None:
    setting = script.Setting("small", 0, 1, 0.0, 0.0, 0.001, True, 40, "grey", 0.1)
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(16, 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (32, 32), mode="bicubic").clamp(0, 1)
    pictures = Pictures("smooth", (smooth * 255).to(torch.uint8), torch.arange(16) % 4)
    shard = script.invert(setting, pictures, generator, 4)
    victim, found = shard["victim"].float(), shard["reconstruction"].float()
    error = (victim - found).square().mean((1, 2, 3)).unflatten(0, (-1, 4)).mean(1)
    assert error[-1] < error[0]
    assert shard["kept"].shape == shard["visible"].shape == (len(victim),)
