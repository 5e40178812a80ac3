"""Norms, attention and dropout under every way of differentiating, against finite differences in float64."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap
from torch.nn import functional
from torch.nn.functional import cross_entropy

from fl_audit.attacks.plain_ops import needs_plain_ops, plain_ops
from fl_audit.attacks.problem import Named, prepare
from fl_audit.attacks.simulation import check_differentiable
from fl_audit.core.progress import Progress
from fl_audit.models import models
from tests.attacks.cases import CPU, make_case


class Attention(nn.Module):
    """Self-attention over the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, images: Tensor) -> Tensor:
        tokens = images.flatten(2).transpose(1, 2)
        attended: Tensor = self.inner(tokens, tokens, tokens, need_weights=False)[0]
        return images + attended.transpose(1, 2).reshape(images.shape)


class ByCall(nn.Module):
    """A norm and a dropout without modules."""

    def forward(self, images: Tensor) -> Tensor:
        return functional.dropout(functional.layer_norm(images, images.shape[1:]))


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: nn.BatchNorm2d(4, track_running_stats=False),
    "instance norm": lambda: nn.InstanceNorm2d(4, affine=True),
    "layer norm": lambda: nn.LayerNorm([4, 4, 4]),
    "group norm": lambda: nn.GroupNorm(2, 4),
    "attention": Attention,
    "by function call": ByCall,
}


def build(layer: str) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), LAYERS[layer](), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3)
    )
    return model.double().train()


@pytest.mark.parametrize("layer", LAYERS)
def test_slopes_of_gradients_are_right_in_every_mode(layer: str) -> None:
    model = build(layer)
    start = {name: value.detach() for name, value in model.named_parameters()}
    draw = torch.Generator().manual_seed(1)
    images, along = (torch.rand(2, 3, 1, 4, 4, generator=draw).double() for _ in range(2))
    labels = torch.tensor([[0, 1, 2], [2, 2, 0]])
    weights = {name: torch.randn(value.shape, generator=draw).double() for name, value in start.items()}

    def loss(values: Named, part: Tensor, marks: Tensor) -> Tensor:
        with plain_ops():
            return cross_entropy(functional_call(model, values, (part,)), marks)

    def taped(part: Tensor, marks: Tensor) -> Tensor:
        values = {name: value.clone().requires_grad_() for name, value in start.items()}
        found = torch.autograd.grad(loss(values, part, marks), list(values.values()), create_graph=True)
        return weighted(dict(zip(values, found, strict=True)))

    def functionally(part: Tensor, marks: Tensor) -> Tensor:
        return weighted(grad(lambda values: loss(values, part, marks))(start))

    def forward(part: Tensor, marks: Tensor) -> Tensor:
        slope: Tensor = jvp(lambda values: loss(values, part, marks), (start,), (weights,))[1]
        return slope

    def weighted(found: Named) -> Tensor:
        return torch.stack([(found[name] * weights[name]).sum() for name in weights]).sum()

    def each(one: Callable[[Tensor, Tensor], Tensor], rows: Tensor) -> Tensor:
        return torch.stack([one(row, marks) for row, marks in zip(rows, labels, strict=True)]).sum()

    step = 1e-6
    seen = float((each(taped, images + step * along) - each(taped, images - step * along)).detach()) / (
        2 * step
    )
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "tape": lambda rows: each(taped, rows),
        "functional": lambda rows: each(functionally, rows),
        "vmap": lambda rows: vmap(functionally)(rows, labels).sum(),
        "forward": lambda rows: each(forward, rows),
        "forward under vmap": lambda rows: vmap(forward)(rows, labels).sum(),
    }
    for way, run in ways.items():
        rows = images.clone().requires_grad_()
        (slope,) = torch.autograd.grad(run(rows), rows)
        assert float((slope * along).sum()) == pytest.approx(seen, rel=1e-5), way


@pytest.mark.parametrize("layer", LAYERS)
def test_values_are_those_of_pytorch(layer: str) -> None:
    model = build(layer)
    if layer == "by function call":
        model[1] = nn.LayerNorm([4, 4, 4], elementwise_affine=False)  # type: ignore[operator]
    images = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    with plain_ops():
        found = model(images)
    assert torch.allclose(found, model(images), atol=1e-12)


def test_only_models_that_need_it_are_slowed_down() -> None:
    images = torch.rand(2, 3, 32, 32)

    def needed(name: str, train: bool) -> bool:
        model = models.create(name).build((3, 32, 32), 10).train(train)
        return needs_plain_ops(lambda: model(images))

    assert not needed("lenet", False)
    assert not needed("convnet:width=8", False)
    assert needed("convnet:width=8", True)
    attention = build("attention").float()
    assert needs_plain_ops(lambda: attention(torch.rand(2, 1, 4, 4)))


def test_a_model_with_attention_can_be_attacked_on_a_cpu() -> None:
    case = make_case()
    model = nn.Sequential(nn.Conv2d(1, 4, 2, stride=2), Attention(), nn.Flatten(), nn.Linear(64, 2))
    sent = {name: value.detach().clone() for name, value in model.state_dict().items()}
    update = replace(case.update, sent=sent, received={name: value + 0.01 for name, value in sent.items()})
    knowledge = replace(case.knowledge, model=model)
    problem = prepare(update, knowledge, seed=0, who="test", device=CPU, progress=Progress())
    assert problem.plain
    check_differentiable(problem, case.labels)
