"""Updates of which only some entries were sent: an exact zero of a pruned update is no evidence.

A client that prunes, or sends the top k entries, sends exact zeros where its gradient was small. A gradient
has zeros of its own: whole rows where a ReLU was off, whole columns where its input was zero. Those are
evidence, and the strongest there is for a single image. The two are told apart by `looks_sparsified`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fl_audit.attacks.objectives import Objective

GAP = 0.1
"""Smallest over typical magnitude of what is not zero, above which a threshold has cut off the rest."""

SHARE = 0.2
"""Share of zeros from which a tensor may be sparsified."""

FEWEST = 64
"""Non-zero entries that a tensor must have to be judged."""


@dataclass(frozen=True)
class KnownEntries:
    """Another objective on the entries that were observed not to be zero.

    Attributes:
        objective: the objective.
    """

    objective: Objective

    def __call__(self, simulated: Sequence[Tensor], observed: Sequence[Tensor]) -> Tensor:
        """See `Objective`."""
        known = [s * (o != 0) for s, o in zip(simulated, observed, strict=True)]
        return self.objective(known, observed)


def looks_sparsified(observed: Sequence[Tensor]) -> bool:
    """Whether most entries lie in tensors from which small entries were cut.

    A tensor is one of them if at least a fifth of its entries are zeros and there is a gap between zero and
    the smallest entry: its magnitude is at least a tenth of the geometric mean. Of a gradient as it is, the
    smallest of many entries that are not zero is next to zero.

    Args:
        observed: the tensors of one update, ``(*shape)`` each.
    """
    judged = [tensor for tensor in observed if int((tensor != 0).sum()) >= FEWEST]
    entries = sum(tensor.numel() for tensor in judged)
    return sum(tensor.numel() for tensor in judged if _is_cut(tensor)) > entries / 2


def _is_cut(tensor: Tensor) -> bool:
    magnitudes = tensor[tensor != 0].abs().double()
    share = 1 - magnitudes.numel() / tensor.numel()
    return share >= SHARE and float(magnitudes.min()) >= GAP * float(magnitudes.log().mean().exp())
