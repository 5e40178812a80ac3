"""The updates that both sides of `against_breaching.py` attack: the same weights, images and arrays."""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fl_audit.core.captures import read_truth, read_update
from fl_audit.core.knowledge import Knowledge
from fl_audit.core.types import CaptureKey, TrainingDetails, Update
from fl_audit.core.units import ImageData, ModelSpec
from fl_audit.data import client_splits, datasets, partitioners
from fl_audit.models import Normalize, models
from tests.bench._breaching import Breaching, Built, read_arrays
from tests.bench._cases import Case

SHAPE = (3, 32, 32)
CLASSES = 10
LEARNING_RATE = 0.1
TOLERANCE = 1e-5


class SharedModel(ModelSpec):
    """Our definition of an architecture, with breaching's normalisation and weights."""

    architecture: str = Field(description="our name of it")
    weights: Path = Field(description="npz of the state dict, in order")
    mean: tuple[float, ...] = Field(description="of each channel")
    std: tuple[float, ...] = Field(description="of each channel")

    @classmethod
    def of(cls, case: Case, built: Built) -> "SharedModel":
        """As ``case`` needs it."""
        return cls(architecture=case.model, weights=built.weights, mean=built.mean, std=built.std)

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Build, normalise as breaching does, and load; names differ, order and shapes must not."""
        model = models.create(self.architecture).build(image_shape, num_classes)
        for module in model.modules():
            if isinstance(module, Normalize):
                module.mean = torch.tensor(self.mean).view(1, -1, 1, 1)
                module.std = torch.tensor(self.std).view(1, -1, 1, 1)
        model.load_state_dict(dict(zip(model.state_dict(), read_arrays(self.weights), strict=True)))
        return model


@dataclass(frozen=True)
class Sample:
    """One client's update.

    Attributes:
        built: the model as breaching has it, with the weights sent.
        update: what our attacks see.
        knowledge: what they are granted, the labels too.
        array: what breaching sees: the same update, as the gradient if it is of one step.
        local: breaching's ``local_hyperparams``, None for one step.
        images: the truth, in order of use, ``(N, C, H, W)`` in [0, 1].
        labels: int64 ``(N,)``.
        note: what to know about the model.
    """

    built: Built
    update: Update
    knowledge: Knowledge
    array: list[Tensor]
    local: dict[str, Any] | None
    images: Tensor
    labels: Tensor
    note: str = "random weights"


def samples(case: Case, breaching: Breaching, archive: Path, *, small: bool) -> Iterator[Sample]:
    """The updates of a case, after a check that both sides have the same model.

    Args:
        case: the case.
        breaching: the worker; it draws the weights, with seed 0.
        archive: CIFAR-10 (JPEG), ``cifar10-jpeg.zip``.
        small: as little training as possible, to prove the plumbing.
    """
    built = breaching.build(case.architecture, 0)
    # By class within each number: the first test image of each class, the second …
    data = datasets.create(f"{archive}:cifar10/test,per_class=4").load()
    order = [row for number in range(4) for row in range(number, len(data.labels), 4)]
    images, labels = data.images[order], data.labels[order]
    check_model(case, built, breaching, images[:4], labels[:4])
    if case.federated:
        yield from _federated(case, built, breaching, archive, small)
        return
    size = case.batch * case.steps
    details = TrainingDetails(
        learning_rate=LEARNING_RATE, local_steps=case.steps, batch_size=case.batch, train_mode=False
    )
    for number in range(case.updates):
        rows = slice(number * size, (number + 1) * size)
        model = SharedModel.of(case, built).build(SHAPE, CLASSES)
        sent = snapshot(model)
        train(model, images[rows], labels[rows], details)
        update = Update(
            CaptureKey("none", 1, number), number, sent, snapshot(model), {}, {"num-examples": size}
        )
        yield sample(case, built, update, details, images[rows], labels[rows])


def sample(
    case: Case, built: Built, update: Update, details: TrainingDetails, images: Tensor, labels: Tensor
) -> Sample:
    """What each side gets to see of one update."""
    model = SharedModel.of(case, built).build(SHAPE, CLASSES)
    delta = update.delta()
    array = [delta[name] for name, _ in model.named_parameters()]
    local: dict[str, Any] | None = None
    if details.local_steps == 1:
        array = [part / -details.learning_rate for part in array]
    else:
        local = {
            "lr": details.learning_rate,
            "steps": details.local_steps,
            "data_per_step": details.batch_size,
            "labels": [part.tolist() for part in torch.split(labels, details.batch_size)],
        }
    knowledge = Knowledge("C", model, "cross-entropy", CLASSES, SHAPE, details, labels)
    return Sample(built, update, knowledge, array, local, images, labels)


def check_model(case: Case, built: Built, breaching: Breaching, images: Tensor, labels: Tensor) -> None:
    """Stop unless both sides' logits and gradients agree: a comparison of two models is none of attacks."""
    model = SharedModel.of(case, built).build(SHAPE, CLASSES).eval()
    theirs, their_gradient = breaching.forward(built, images, labels)
    ours = model(images)
    gradient = torch.autograd.grad(cross_entropy(ours, labels), list(model.parameters()))
    torch.testing.assert_close(
        ours.detach(), theirs, rtol=TOLERANCE, atol=TOLERANCE, msg=lambda text: f"{case.model}: {text}"
    )
    for name, one, other in zip(
        (name for name, _ in model.named_parameters()), gradient, their_gradient, strict=True
    ):
        apart = float((one - other).norm() / other.norm().clamp(min=1e-12))
        if apart > 1e-3:  # float32 sums in another order
            raise SystemExit(f"{case.model}: the gradients of {name} are {apart:.2g} apart, relative")


def train(model: nn.Module, images: Tensor, labels: Tensor, details: TrainingDetails) -> None:
    """One client's local training, in eval mode."""
    model.eval()
    optimiser = torch.optim.SGD(model.parameters(), lr=details.learning_rate)
    for part, marks in zip(
        torch.split(images, details.batch_size), torch.split(labels, details.batch_size), strict=True
    ):
        optimiser.zero_grad()
        torch.autograd.backward(cross_entropy(model(part), marks))
        optimiser.step()


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the state dict."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _federated(
    case: Case, built: Built, breaching: Breaching, archive: Path, small: bool
) -> Iterator[Sample]:
    """Train the model in a federation, then capture one more round of it, in eval mode, and check again.

    Four clients hold 400 images of the training set, of which they train on 72 each, for six rounds of one
    epoch with batch norm in train mode: without that this architecture does not learn.
    """
    from fl_audit.core.seeding import derive_seed
    from fl_audit.federation import FederationSpec, Training, run_federation
    from fl_audit.strategies.defenses import defenses

    data: ImageData = datasets.create(f"{archive}:cifar10/train,per_class={8 if small else 40}").load()
    clients = 4
    splits = client_splits(data, partitioners.create("iid"), clients, test_fraction=0.1, seed=0)
    schooling = Training(
        learning_rate=0.05, batch_size=8, local_steps=None, local_epochs=1, momentum=0.9, train_mode=True
    )
    spec = FederationSpec(
        data=data,
        splits=splits,
        model=SharedModel.of(case, built),
        training=schooling,
        rounds=1 if small else 6,
        clients=clients,
    )
    attacked = replace(
        spec,
        rounds=1,
        seed=derive_seed(0, "attacked") % 2**31,
        training=Training(
            learning_rate=LEARNING_RATE, batch_size=case.batch, local_steps=case.steps, train_mode=False
        ),
    )
    none = defenses.create("none")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        schooled = run_federation(
            spec, defense=none, defense_slug="none", out=folder / "a", attack_filter=lambda *_: False
        )
        built = replace(built, weights=built.weights.with_name(f"{case.model}-trained.npz"))
        save_state(built.weights, schooled.weights)
        attacked = replace(attacked, model=SharedModel.of(case, built))
        run_federation(attacked, defense=none, defense_slug="none", out=folder / "b")
        check_model(case, built, breaching, data.images[:4], data.labels[:4])
        for client in range(min(case.updates, clients)):
            key = CaptureKey("none", 1, client)
            update = read_update(folder / "b" / "captures", key)
            truth = read_truth(folder / "b" / "truth", key)
            made = sample(case, built, update, truth.training, truth.images, truth.labels)
            yield replace(made, note=f"{spec.rounds} rounds trained, accuracy {schooled.rounds[-1].accuracy}")


def save_state(path: Path, state: Mapping[str, Tensor]) -> None:
    """A state dict as npz, in order."""
    np.savez(path, *[value.numpy() for value in state.values()])
