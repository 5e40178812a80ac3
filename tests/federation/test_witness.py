"""The witness sees what an unmodified PyTorch client trained on, however it is written."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from fl_audit.core.types import GroundTruth
from fl_audit.federation.apps.loss import loss_of
from fl_audit.federation.witness import Witness
from tests.federation.witness_cases import IMAGES, LABELS, network, sgd, step


def functional_loss(model: nn.Module) -> None:
    optimizer = sgd(model)
    for start in (0, 4):
        step(model, optimizer, slice(start, start + 4))


def module_loss(model: nn.Module) -> None:
    optimizer, criterion = sgd(model), nn.CrossEntropyLoss()
    for start in (0, 4):
        rows = slice(start, start + 4)
        optimizer.zero_grad()
        criterion(model(IMAGES[rows]), LABELS[rows]).backward()
        optimizer.step()


def log_softmax_and_nll(model: nn.Module) -> None:
    optimizer = sgd(model)
    for start in (0, 4):
        rows = slice(start, start + 4)
        loss = nn.NLLLoss()(functional.log_softmax(model(IMAGES[rows]), 1), target=LABELS[rows])
        step(model, optimizer, rows, loss)


def one_hot_targets(model: nn.Module) -> None:
    optimizer = sgd(model)
    for start in (0, 4):
        rows = slice(start, start + 4)
        target = functional.one_hot(LABELS[rows], 3).float()
        step(model, optimizer, rows, functional.cross_entropy(model(IMAGES[rows]), target))


def accumulated(model: nn.Module) -> None:
    """Two backward passes for each step."""
    optimizer = sgd(model)
    for start in (0, 4):
        optimizer.zero_grad()
        for half in (start, start + 2):
            rows = slice(half, half + 2)
            functional.cross_entropy(model(IMAGES[rows]), LABELS[rows]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def with_evaluations(model: nn.Module) -> None:
    """Validation before, between and after, one of them without no_grad."""
    optimizer = sgd(model)
    functional.cross_entropy(model(IMAGES[8:]), LABELS[8:])
    for start in (0, 4):
        step(model, optimizer, slice(start, start + 4))
        with torch.no_grad():
            functional.cross_entropy(model(IMAGES[8:]), LABELS[8:])
    functional.cross_entropy(model(IMAGES[8:]), LABELS[8:])


def in_two_parts(model: nn.Module) -> None:
    """Encoder and head are called apart: there is no root that holds both."""
    assert isinstance(model, nn.Sequential)
    optimizer, encoder, head = sgd(model), model[:3], model[3]
    for start in (0, 4):
        rows = slice(start, start + 4)
        step(model, optimizer, rows, functional.cross_entropy(head(encoder(IMAGES[rows])), LABELS[rows]))


def by_closure(model: nn.Module) -> None:
    """The optimiser computes the loss itself, as in PyTorch Lightning."""
    optimizer = sgd(model)
    for start in (0, 4):
        rows = slice(start, start + 4)

        def closure(rows: slice = rows) -> float:
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(IMAGES[rows]), LABELS[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            return float(loss)

        optimizer.step(closure)


def written_out(model: nn.Module) -> None:
    """Cross-entropy without a function of PyTorch that has a target."""
    optimizer = sgd(model)
    for start in (0, 4):
        rows = slice(start, start + 4)
        chances = functional.log_softmax(model(IMAGES[rows]), 1)
        step(model, optimizer, rows, -chances.gather(1, LABELS[rows, None]).mean())


class WithLoss(nn.Module):
    """Computes its own loss, as the models of transformers do."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.inner(pixel_values)
        return {"loss": nn.CrossEntropyLoss()(logits.view(-1, 3), labels.view(-1)), "logits": logits}


def own_loss(model: nn.Module) -> None:
    optimizer, whole = sgd(model), WithLoss(model)
    for start in (0, 4):
        rows = slice(start, start + 4)
        step(model, optimizer, rows, whole(pixel_values=IMAGES[rows], labels=LABELS[rows])["loss"])


class InPlace(nn.Module):
    """Normalises its input in place."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images.sub_(0.5).div_(0.2))
        return logits


@pytest.mark.parametrize(
    "train",
    [
        functional_loss,
        module_loss,
        log_softmax_and_nll,
        one_hot_targets,
        accumulated,
        with_evaluations,
        in_two_parts,
        by_closure,
        written_out,
        own_loss,
    ],
)
def test_images_labels_steps_and_details_are_seen(train: Callable[[nn.Module], None]) -> None:
    model = network()
    with Witness() as seen:
        train(model)
    truth = seen.truth()
    assert isinstance(truth, GroundTruth), truth
    assert torch.equal(truth.images, IMAGES[:8])
    assert torch.equal(truth.labels, LABELS[:8])
    assert truth.steps.tolist() == [0] * 4 + [1] * 4
    details = truth.training
    assert (details.optimizer, details.learning_rate, details.momentum) == ("sgd", 0.2, 0.9)
    assert (details.weight_decay, details.local_steps, details.batch_size) == (0.01, 2, 4)
    assert details.train_mode

    alone = network()
    train(alone)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), alone.parameters(), strict=True)
    )  # watching changes nothing


def test_an_input_that_is_overwritten_later_is_kept_as_it_entered() -> None:
    with Witness() as seen:
        model = InPlace()
        loss = functional.cross_entropy(model(IMAGES[:4].clone()), LABELS[:4])
        step(model, sgd(model), slice(0), loss)
    truth = seen.truth()
    assert isinstance(truth, GroundTruth)
    assert torch.equal(truth.images, IMAGES[:4])


def test_eval_mode_and_keyword_inputs_are_seen() -> None:
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, *, pixels: Tensor) -> dict[str, Tensor]:
            return {"logits": self.inner(pixels)}

    model = Keyword().eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with Witness() as seen:
        functional.cross_entropy(model(pixels=IMAGES[:3])["logits"], LABELS[:3]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    truth = seen.truth()
    assert isinstance(truth, GroundTruth)
    assert torch.equal(truth.images, IMAGES[:3])
    assert (truth.training.optimizer, truth.training.train_mode) == ("adam", False)


@pytest.mark.parametrize(
    ("images", "why"),
    [
        (IMAGES[:4] * 2 - 1, "expected \\[0, 1\\]"),
        (IMAGES[:4].flatten(1), "expected images"),
        (IMAGES[:4] * float("nan"), "runs from nan"),
    ],
)
def test_inputs_that_are_no_images_are_said_so(images: Tensor, why: str) -> None:
    model = network()
    with Witness() as seen:
        step(model, sgd(model), slice(0, 4), functional.cross_entropy(model(images), LABELS[:4]))
    truth = seen.truth()
    assert isinstance(truth, str)
    assert re.search(why, truth)


def test_words_are_no_images_and_that_is_said() -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 3))
    with Witness() as seen:
        tokens = torch.randint(0, 9, (4, 3))
        step(model, sgd(model), slice(0, 4), functional.cross_entropy(model(tokens), LABELS[:4]))
    assert "not a gradient of an image model: Sequential is fed int64 of shape (4, 3)" in str(seen.truth())


def test_no_step_and_no_labels_are_said_so() -> None:
    with Witness() as seen:
        network()(IMAGES[:2])
    assert "no optimiser step" in str(seen.truth())
    model = network()
    with Witness() as seen:
        step(model, sgd(model), slice(0, 4), model(IMAGES[:4]).square().mean())
    assert "no loss with a target" in str(seen.truth())


@pytest.mark.parametrize("reentrant", [True, False])
def test_what_checkpointing_computes_once_more_in_backward_is_no_image(reentrant: bool) -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(1, 3, 1)
            self.block = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
            self.head = nn.Linear(48, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = checkpoint(self.block, self.stem(x), use_reentrant=reentrant)
            logits: Tensor = self.head(y.flatten(1))
            return logits

    torch.manual_seed(1)
    model = Checkpointed()
    with Witness() as witness:
        functional_loss(model)
    truth = witness.truth()
    assert isinstance(truth, GroundTruth)
    assert torch.equal(truth.images, IMAGES[:8])
    assert truth.training.local_steps == 2
    assert loss_of(witness.steps[0].calls) == "cross-entropy"


def test_gradients_that_a_client_collects_itself_are_of_one_step() -> None:
    """DP-SGD by hand: each example's gradient is taken away before the next one's is computed."""
    model = network()
    optimizer = sgd(model)
    with Witness() as witness:
        total = [torch.zeros_like(parameter) for parameter in model.parameters()]
        for row in range(4):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(IMAGES[row : row + 1]), LABELS[row : row + 1])
            torch.autograd.backward(loss)
            for kept, parameter in zip(total, model.parameters(), strict=True):
                assert parameter.grad is not None
                kept += parameter.grad.clamp(-1, 1)
        for kept, parameter in zip(total, model.parameters(), strict=True):
            parameter.grad = kept / 4
        optimizer.step()
    truth = witness.truth()
    assert isinstance(truth, GroundTruth)
    assert torch.equal(truth.images, IMAGES[:4])
    assert truth.training.local_steps == 1
