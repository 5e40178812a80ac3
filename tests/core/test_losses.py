"""Losses by text: each is the function of PyTorch that it names."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fl_audit.core.losses import known_loss, mean_cross_entropy, words_of

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(5, 3, generator=GENERATOR)
LABELS = torch.tensor([0, 2, 1, 1, 0])
HOT = functional.one_hot(LABELS, 3).float()
WEIGHT = torch.tensor([0.5, 1.0, 2.0])


@pytest.mark.parametrize(
    ("text", "function"),
    [
        ("cross-entropy", lambda x: functional.cross_entropy(x, LABELS)),
        (
            "cross-entropy(label_smoothing=0.1, reduction='sum')",
            lambda x: functional.cross_entropy(x, LABELS, label_smoothing=0.1, reduction="sum"),
        ),
        (
            "cross-entropy(weight=[0.5, 1.0, 2.0])",
            lambda x: functional.cross_entropy(x, LABELS, weight=WEIGHT),
        ),
        (
            "cross-entropy(weight=[0.5, 1.0, 2.0], reduction='batchmean')",
            lambda x: functional.cross_entropy(x, LABELS, weight=WEIGHT, reduction="none").mean(),
        ),
        (
            "binary-cross-entropy(pos_weight=[0.5, 1.0, 2.0])",
            lambda x: functional.binary_cross_entropy_with_logits(x, HOT, pos_weight=WEIGHT),
        ),
        ("squared-error(of='softmax')", lambda x: functional.mse_loss(x.softmax(1), HOT)),
        ("squared-error(of='sigmoid', reduction='sum')", lambda x: (x.sigmoid() - HOT).square().sum()),
        ("multi-margin", lambda x: functional.multi_margin_loss(x, LABELS)),
    ],
)
def test_a_text_says_a_loss_of_pytorch(text: str, function: Callable[[Tensor], Tensor]) -> None:
    loss = known_loss(text)
    assert loss is not None
    torch.testing.assert_close(loss(LOGITS, LABELS), function(LOGITS))


@pytest.mark.parametrize(
    "text",
    [
        "focal",
        "app.task:loss",
        "cross-entropy(3)",
        "cross-entropy(gamma=2)",
        "cross-entropy(reduction='none')",
        "cross-entropy(weight=open('x'))",
        "squared-error(of='hidden')",
        "cross-entropy(",
        "",
    ],
)
def test_any_other_text_is_none(text: str) -> None:
    assert known_loss(text) is None


def test_usual_settings_do_not_show() -> None:
    assert words_of("cross-entropy", label_smoothing=0.0, weight=None, reduction="mean") == "cross-entropy"
    assert words_of("cross-entropy", label_smoothing=0.1) == "cross-entropy(label_smoothing=0.1)"
    assert known_loss("cross-entropy") is mean_cross_entropy
