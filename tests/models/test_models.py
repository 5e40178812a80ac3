from pathlib import Path

import pytest
import torch
from torch import nn

from fl_audit.core.errors import ConfigError
from fl_audit.core.seeding import seeded_globals
from fl_audit.models import Normalize, models

COLOUR = (3, 32, 32)
SHAPES = [(1, 8, 8), (1, 25, 25), (3, 9, 17), COLOUR]

# Counts of the papers' own code; torchvision's count for the large stem.
COUNTS = {
    "lenet": 15_826,
    "convnet": 2_904_970,
    "resnet20-4": 4_327_754,
    "resnet18": 11_173_962,
    "resnet18:large": 11_181_642,
    "mlp:100": 3072 * 100 + 100 + 100 * 10 + 10,
    "mlp:width=4,hidden=2": 3072 * 4 + 4 + 4 * 4 + 4 + 4 * 10 + 10,
}


def build(spec: str, shape: tuple[int, int, int] = COLOUR, classes: int = 10, seed: int = 0) -> nn.Module:
    with seeded_globals(seed, "model"):
        return models.create(spec).build(shape, classes)


@pytest.mark.parametrize("spec", COUNTS)
def test_parameter_counts(spec: str) -> None:
    assert sum(parameter.numel() for parameter in build(spec).parameters()) == COUNTS[spec]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", models.names())
def test_every_model_takes_every_image(name: str, shape: tuple[int, int, int]) -> None:
    model = build(name, shape, 7)
    images = torch.rand(2, *shape)
    assert model(images).shape == (2, 7)
    model.eval()
    both = model(images)
    assert torch.allclose(both[:1], model(images[:1]), atol=1e-4), "an image's logits depend on its batch"


@pytest.mark.parametrize("name", models.names())
def test_builds_follow_the_seed(name: str) -> None:
    first, again, other = build(name, seed=3), build(name, seed=3), build(name, seed=4)
    pairs = zip(first.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", models.names())
def test_normalisation_is_never_sent(name: str) -> None:
    model = build(name)
    known = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
    layers = [module for module in model.modules() if isinstance(module, Normalize)]
    assert len(layers) == (0 if name == "mlp" else 1)
    for layer in layers:
        assert next(iter(model.children())) is layer
        assert id(layer.mean) not in known
        assert layer(torch.full((1, 3, 2, 2), 0.75)).flatten().tolist() == [1.0] * 12


def test_the_first_layer_of_the_mlp_sees_raw_pixels() -> None:
    model = build("mlp", (1, 8, 8), 3)
    image = torch.rand(1, 1, 8, 8)
    loss = nn.functional.cross_entropy(model(image), torch.tensor([1]))
    first = next(module for module in model.modules() if isinstance(module, nn.Linear))
    weight, bias = torch.autograd.grad(loss, [first.weight, first.bias])
    row = int(bias.abs().argmax())
    assert torch.allclose(weight[row] / bias[row], image.flatten(), atol=1e-5)


def test_lenet_starts_as_in_the_paper() -> None:
    weights = torch.cat([parameter.detach().flatten() for parameter in build("lenet").parameters()])
    assert float(weights.abs().max()) <= 0.5
    assert float(weights.std()) == pytest.approx(12**-0.5, abs=0.01)
    strides = [module.stride[0] for module in build("lenet").modules() if isinstance(module, nn.Conv2d)]
    assert strides == [2, 2, 1]


def test_convnet_pools_where_the_paper_does() -> None:
    model = build("convnet")
    sizes: list[tuple[int, ...]] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _m, _i, out: sizes.append(tuple(out.shape[1:])))
    model(torch.rand(2, *COLOUR))
    widths = [64, 128, 128, 256, 256, 256, 256, 256]
    assert sizes == [(width, *[32 if place < 6 else 10] * 2) for place, width in enumerate(widths)]


def test_resnet20_shrinks_where_the_paper_does() -> None:
    model = build("resnet20-4")
    sizes: list[tuple[int, ...]] = []
    for module in model.children():
        if type(module).__name__ == "BasicBlock":
            module.register_forward_hook(lambda _m, _i, out: sizes.append(tuple(out.shape[1:])))
    model(torch.rand(2, *COLOUR))
    assert sizes == [(64, 32, 32)] * 3 + [(128, 16, 16)] * 3 + [(256, 8, 8)] * 3


@pytest.mark.parametrize("spec", ["mobilenet_v3_small", "shufflenet_v2_x0_5"])
@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 64, 48)], ids=str)
def test_torchvision_by_name(spec: str, shape: tuple[int, int, int]) -> None:
    model = build(spec, shape, 5)
    assert model(torch.rand(2, *shape)).shape == (2, 5)
    assert model.training


USER_MODULE = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(192, 10)
    def forward(self, x):
        return self.fc(x.flatten(1))
def sized(image_shape, num_classes):
    c, h, w = image_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, num_classes))
def three(a, b, c): ...
def nothing(): ...
value = 3
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_nets.py").write_text(USER_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "my_nets"


def test_your_own_model(user_module: str) -> None:
    assert build(f"{user_module}:Net", (3, 8, 8))(torch.rand(2, 3, 8, 8)).shape == (2, 10)
    assert build(f"{user_module}:sized", (1, 9, 9), 4)(torch.rand(2, 1, 9, 9)).shape == (2, 4)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("Net", "does not take 3 x 32 x 32 images"),
        ("three", "expected a function of \\(image_shape, num_classes\\)"),
        ("nothing", "expected an nn.Module, got NoneType"),
        ("value", "expected a function or class, got int"),
        ("missing", "no attribute"),
    ],
)
def test_your_own_mistakes(user_module: str, function: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build(f"{user_module}:{function}")


def test_your_own_model_with_other_classes(user_module: str) -> None:
    with pytest.raises(ConfigError, match=r"expected logits of shape \(1, 7\), got \(1, 10\)"):
        build(f"{user_module}:Net", (3, 8, 8), 7)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("lnet", "Did you mean 'lenet'"),
        ("mobilenet_v3_smal", "Did you mean 'mobilenet_v3_small'"),
        ("lenett:3", "Did you mean 'lenet'"),
        ("no_such_module:Net", "no module 'no_such_module'"),
        ("mobilenet_v3_small:3", "takes no parameters"),
        ("convnet:0", "width"),
        ("alexnet", "does not take 3 x 32 x 32 images.*larger"),
        ("vit_b_16", "cannot be built for 25x25"),
    ],
)
def test_bad_specs(spec: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build(spec, (1, 25, 25) if spec == "vit_b_16" else COLOUR)


@pytest.mark.parametrize("shape", [(3, 7, 32), (2, 32, 32), (4, 32, 32)], ids=str)
@pytest.mark.parametrize("name", models.names())
def test_images_that_no_model_takes(name: str, shape: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="expected images with 1 or 3 channels and at least 8x8"):
        build(name, shape)
