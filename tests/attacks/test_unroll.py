"""Unrolling in bounded memory equals plain unrolling, and its memory hardly grows with the steps."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy

from fl_audit.attacks._probe import BOUND, in_bounded_memory, kept_bytes, runs_forward_mode
from fl_audit.attacks.plain_ops import plain_ops
from fl_audit.attacks.unroll import WIDTH, Named, Unrolling, unroll
from fl_audit.core.types import TrainingDetails
from fl_audit.models import models

SGD = TrainingDetails(learning_rate=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
CLIPPED = replace(SGD, clip_norm=0.5)
ADAM = TrainingDetails(optimizer="adamw", learning_rate=0.01, amsgrad=True, eps=1e-3)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.LayerNorm([4, 6, 6]), nn.Flatten(), nn.Linear(144, 3)
    )


def losses(model: nn.Module) -> Callable[[Named, Tensor, Tensor], Tensor]:
    def loss(parameters: Named, images: Tensor, labels: Tensor) -> Tensor:
        with plain_ops():
            return cross_entropy(functional_call(model, parameters, (images,)), labels)

    return loss


def plan_of(model: nn.Module, details: TrainingDetails, steps: int, batch: int = 2) -> Unrolling:
    start = {name: value.detach() for name, value in model.named_parameters()}
    return Unrolling(start, losses(model), details, (batch,) * steps)


def drawn(steps: int, rows: int = 1) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    images = torch.rand(rows, 2 * steps, 1, 6, 6, generator=draw)
    return images, torch.randint(0, 3, (rows, 2 * steps), generator=draw)


def slope(plan: Unrolling, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The unrolled update of all rows, and the slope of a weighted sum of it in the images."""
    images = images.clone().requires_grad_()
    if plan.functional:
        made = vmap(lambda row, marks: unroll(plan, row, marks))(images, labels)
    else:
        each = [unroll(plan, row, marks) for row, marks in zip(images, labels, strict=True)]
        made = {name: torch.stack([row[name] for row in each]) for name in plan.start}
    flat = torch.cat([value.flatten() for value in made.values()])
    weights = torch.randn(flat.shape, generator=torch.Generator().manual_seed(2))
    (found,) = torch.autograd.grad((flat * weights).sum(), images)
    return flat.detach(), found


@pytest.mark.parametrize("details", [SGD, ADAM, CLIPPED], ids=["sgd", "adamw", "clipped"])
@pytest.mark.parametrize("steps", [1, 3, WIDTH, WIDTH + 1, 2 * WIDTH + 3])
def test_it_equals_plain_unrolling(steps: int, details: TrainingDetails) -> None:
    plan = replace(plan_of(net(), details, steps), proximal=0.1)
    images, labels = drawn(steps)
    update, wanted = slope(plan, images, labels)
    for forward in (True, False):
        kept = replace(plan, checkpointed=True, forward_mode=forward)
        again, found = slope(kept, images, labels)
        assert torch.equal(again, update)
        assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-6 * float(wanted.abs().max()))


@pytest.mark.parametrize("details", [SGD, ADAM, CLIPPED], ids=["sgd", "adamw", "clipped"])
def test_rows_on_one_axis_equal_each_alone(details: TrainingDetails) -> None:
    steps = WIDTH + 3
    plan = plan_of(net(), details, steps)
    images, labels = drawn(steps, rows=3)
    update, wanted = slope(plan, images, labels)
    for kept, forward in ((False, True), (True, True), (True, False)):
        rows = replace(plan, functional=True, checkpointed=kept, forward_mode=forward)
        again, found = slope(rows, images, labels)
        assert torch.allclose(again, update, atol=1e-6)
        assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    plan = replace(plan_of(net(), SGD, 3), checkpointed=True)
    images, labels = drawn(3)
    first = images[0].requires_grad_()
    total = torch.stack([v.square().sum() for v in unroll(plan, first, labels[0]).values()]).sum()
    (once,) = torch.autograd.grad(total, first, create_graph=True)
    with pytest.raises(RuntimeError, match="have been used|once_differentiable"):
        torch.autograd.grad(once.sum(), first)


class NoForward(torch.autograd.Function):
    """Sine without a derivative in forward mode."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, values: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        return values.sin()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, slopes: Tensor) -> Tensor:
        (values,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return slopes * values.cos()  # type: ignore[no-any-return]


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(36, 3)

    def forward(self, images: Tensor) -> Tensor:
        return NoForward.apply(self.linear(images.flatten(1)))  # type: ignore[no-any-return]


def test_forward_mode_is_tried_and_checked_before_it_is_used() -> None:
    images, labels = drawn(3)
    assert runs_forward_mode(plan_of(net(), SGD, 3), images[0], labels[0])
    assert not runs_forward_mode(plan_of(Custom(), SGD, 3), images[0], labels[0])
    fused = net()  # whose layer norm PyTorch differentiates wrongly there
    plan = plan_of(fused, SGD, 3)
    plan = replace(plan, loss=lambda p, x, y: cross_entropy(functional_call(fused, p, (x,)), y))
    assert not runs_forward_mode(plan, images[0], labels[0])


def test_small_models_are_unrolled_as_they_are_and_large_ones_are_not() -> None:
    for name, steps, bounded in (("lenet", 64, False), ("convnet", 4, True), ("convnet", 1, False)):
        plan = plan_of(models.create(name).build((3, 32, 32), 10).eval(), SGD, steps, batch=1)
        images = torch.rand(steps, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        labels = torch.zeros(steps, dtype=torch.int64)
        assert (kept_bytes(plan, images, labels) > BOUND) == bounded
        assert in_bounded_memory([plan], images, labels)[0] == bounded


class Held:
    """Counts the bytes that graphs hold at a time."""

    now = most = 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        Held.now += tensor.numel() * tensor.element_size()
        Held.most = max(Held.most, Held.now)

    def __del__(self) -> None:
        Held.now -= self.tensor.numel() * self.tensor.element_size()


def most_held(steps: int, *, checkpointed: bool) -> int:
    images, labels = drawn(steps)
    plan = replace(plan_of(net(), SGD, steps), checkpointed=checkpointed)
    Held.now = Held.most = 0
    with saved_tensors_hooks(Held, lambda held: held.tensor):
        slope(plan, images, labels)
    return Held.most


def test_memory_hardly_grows_with_the_steps() -> None:
    few, many = (most_held(steps, checkpointed=True) for steps in (2, 64))
    plain = most_held(64, checkpointed=False)
    states = 2 * 2 * WIDTH * sum(p.numel() * 4 for p in net().parameters())
    assert many - few <= states
    assert many < plain / 8
