"""Which loss a client trains on is told by what it calls, and proved by the gradient at the logits."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_audit.core.losses import known_loss
from fl_audit.federation._calls import Call
from fl_audit.federation.apps.loss import NO_CLASSES, loss_of, one_logit
from fl_audit.federation.witness import Witness

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(6, 1, 4, 4, generator=GENERATOR)
LABELS = torch.tensor([0, 2, 1, 1, 0, 2])
HOT = functional.one_hot(LABELS, 3).float()
YES = (LABELS > 0).float()
MANY = (HOT + HOT.roll(1, 1)).clamp(max=1)
WEIGHT = torch.tensor([0.5, 1.0, 2.0])


def seen(loss: Callable[[Tensor], Tensor], *last: nn.Module, outputs: int = 3) -> list[Call]:
    """The calls of one step of a small network on ``loss`` of what it returns."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, outputs), *last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Witness() as witness:
        loss(model(IMAGES)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    witness.truth()
    return witness.steps[0].calls


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (lambda x: functional.cross_entropy(x, LABELS), "cross-entropy"),
        (lambda x: functional.cross_entropy(x, LABELS) * 512, "cross-entropy"),
        (lambda x: functional.cross_entropy(x, LABELS, reduction="none").mean(), "cross-entropy"),
        (
            lambda x: functional.cross_entropy(x, LABELS, reduction="none").sum(),
            "cross-entropy(reduction='sum')",
        ),
        (lambda x: functional.cross_entropy(x, LABELS, reduction="sum") / 6, "cross-entropy"),
        (lambda x: functional.cross_entropy(x, LABELS) * 6, "cross-entropy(reduction='sum')"),
        (lambda x: functional.mse_loss(x, HOT, reduction="sum") / 18, "squared-error"),
        (nn.CrossEntropyLoss(label_smoothing=0.1), "cross-entropy(label_smoothing=0.1)"),
        (nn.CrossEntropyLoss(weight=WEIGHT), "cross-entropy(weight=[0.5, 1.0, 2.0])"),
        (lambda x: functional.cross_entropy(x, HOT), "cross-entropy"),
        (lambda x: functional.nll_loss(x.log_softmax(1), LABELS), "cross-entropy"),
        (lambda x: -(x.log_softmax(1) * HOT).sum(1).mean(), "cross-entropy"),
        (lambda x: functional.binary_cross_entropy_with_logits(x, HOT), "binary-cross-entropy"),
        (lambda x: functional.mse_loss(x, HOT), "squared-error"),
        (lambda x: functional.mse_loss(x.softmax(1), HOT), "squared-error(of='softmax')"),
        (lambda x: functional.multi_margin_loss(x, LABELS), "multi-margin"),
    ],
)
def test_a_loss_is_known(loss: Callable[[Tensor], Tensor], text: str) -> None:
    def called(logits: Tensor) -> Tensor:
        return loss(logits, LABELS) if isinstance(loss, nn.Module) else loss(logits)

    calls = seen(called)
    assert loss_of(calls) == text
    assert known_loss(text) is not None
    assert calls[0].labels is not None
    assert torch.equal(calls[0].labels, LABELS)


def focal(logits: Tensor) -> Tensor:
    chances = logits.log_softmax(1).gather(1, LABELS[:, None])[:, 0]
    return (-((1 - chances.exp()) ** 2) * chances).mean()


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda x: functional.nll_loss(x.softmax(1), LABELS), "nll_loss with more to it"),
        (
            lambda x: functional.cross_entropy(x, LABELS) + 0.1 * functional.mse_loss(x, HOT),
            "cross_entropy with more to it",
        ),
        (focal, "written by the app itself"),
    ],
)
def test_a_loss_with_more_to_it_is_not_taken_for_what_it_calls(
    loss: Callable[[Tensor], Tensor], words: str
) -> None:
    calls = seen(loss)
    text = loss_of(calls)
    assert text is not None
    assert text.startswith(words)
    assert known_loss(text) is None
    assert calls[0].labels is not None
    assert torch.equal(calls[0].labels, LABELS)


def test_a_model_that_ends_in_log_softmax_trains_on_cross_entropy() -> None:
    calls = seen(lambda x: functional.nll_loss(x, LABELS), nn.LogSoftmax(1))
    assert loss_of(calls) == "cross-entropy"


@pytest.mark.parametrize(
    ("loss", "last", "kind", "text"),
    [
        (nn.BCEWithLogitsLoss(), nn.Identity(), "logit", "cross-entropy"),
        (
            nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0)),
            nn.Flatten(0),
            "logit",
            "cross-entropy(weight=[1.0, 3.0], reduction='batchmean')",
        ),
        (nn.BCELoss(), nn.Sigmoid(), "probability", "cross-entropy"),
    ],
)
def test_one_output_for_two_classes_is_cross_entropy_over_two_logits(
    loss: nn.Module, last: nn.Module, kind: str, text: str
) -> None:
    calls = seen(lambda x: loss(x, YES.view_as(x)), last, outputs=1)
    assert (one_logit(calls[0]), loss_of(calls)) == (kind, text)
    assert calls[0].labels is not None
    assert torch.equal(calls[0].labels, YES.long())


@pytest.mark.parametrize(
    ("loss", "outputs"),
    [
        (lambda x: functional.mse_loss(x, IMAGES.flatten(1)), 16),
        (lambda x: functional.mse_loss(x[:, 0], LABELS.float()), 1),
        (lambda x: functional.l1_loss(x[:, 0], LABELS.float()), 1),
        (lambda x: functional.smooth_l1_loss(x[:, 0], LABELS.float()), 1),
        (lambda x: functional.huber_loss(x, LABELS.float()[:, None]), 1),
        (lambda x: functional.binary_cross_entropy_with_logits(x, MANY), 3),
        (lambda x: functional.cross_entropy(x.view(6, 3, 2), torch.ones(6, 2).long()), 6),
    ],
)
def test_targets_that_are_not_one_class_for_each_image_are_no_labels(
    loss: Callable[[Tensor], Tensor], outputs: int
) -> None:
    calls = seen(loss, outputs=outputs)
    assert calls[0].labels is None
    text = loss_of(calls)
    assert text is not None
    assert text.endswith(NO_CLASSES)
    assert known_loss(text) is None
