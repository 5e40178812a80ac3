"""R-GAP: a small case of its paper, what it cannot invert by name, and a rank that falls short said so."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fl_audit.attacks import attacks
from fl_audit.core.knowledge import Knowledge
from fl_audit.core.seeding import seeded_globals, torch_generator
from fl_audit.core.types import CaptureKey, Reconstruction, TrainingDetails, Update
from fl_audit.models import models
from tests.attacks.cases import CPU, snapshot

SHAPE = (3, 16, 16)


def attacked(model: nn.Module, count: int = 1) -> tuple[torch.Tensor, Reconstruction]:
    """One SGD step of ``model`` on ``count`` images, attacked with labels inferred."""
    images = torch.rand(count, *SHAPE, generator=torch_generator(0, "images"))
    sent = snapshot(model)
    torch.autograd.backward(cross_entropy(model(images), torch.arange(count)))
    received = dict(sent)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        received[name] = sent[name] - 0.1 * parameter.grad
    update = Update(CaptureKey("none", 1, 0), 1, sent, received, {}, {"num-examples": count})
    training = TrainingDetails(learning_rate=0.1, batch_size=count)
    knowledge = Knowledge("C", model, "cross-entropy", 10, SHAPE, training, None)
    return images, attacks.create("r-gap").run(update, knowledge, seed=0, device=CPU)


def chain(activation: nn.Module) -> nn.Module:
    """Three convolutions and a linear layer, as in the paper's table 1, smaller."""
    with seeded_globals(0, "weights"):
        return nn.Sequential(
            nn.Conv2d(3, 12, 5, stride=2, padding=2),
            activation,
            nn.Conv2d(12, 36, 3, stride=2, padding=1),
            activation,
            nn.Conv2d(36, 36, 3, padding=1),
            activation,
            nn.Flatten(),
            nn.Linear(36 * 16, 10),
        )


@pytest.mark.parametrize(
    "activation", [nn.LeakyReLU(0.2), nn.Sigmoid(), nn.Tanh()], ids=lambda a: type(a).__name__
)
def test_an_image_is_recovered_through_three_convolutions(activation: nn.Module) -> None:
    images, result = attacked(chain(activation).eval())
    assert (result.status, result.reason) == ("done", None)
    assert result.images is not None
    assert float((result.images - images).square().mean().sqrt()) < 0.02


def test_lenet_gives_the_image_away() -> None:
    with seeded_globals(0, "weights"):
        model = models.create("lenet").build(SHAPE, 10).eval()
    images, result = attacked(model)
    assert result.images is not None
    assert float((result.images - images).abs().max()) < 0.05


def test_what_cannot_be_undone_is_named() -> None:
    with seeded_globals(0, "weights"):
        model = models.create("convnet").build(SHAPE, 10).eval()
    _, result = attacked(model)
    assert result.status == "failed"
    assert "'2.weight'" in (result.reason or "")


def test_two_images_are_refused() -> None:
    _, result = attacked(chain(nn.Sigmoid()).eval(), count=2)
    assert result.status == "failed"
    assert "one image at most" in (result.reason or "")
