"""The loss that clients train on."""

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import cross_entropy

Loss = Callable[[Tensor, Tensor], Tensor]
"""From logits ``(N, K)`` and labels int64 ``(N,)`` to a scalar."""


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the batch."""
    return cross_entropy(logits, labels)
