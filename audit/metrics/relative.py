"""How much a reconstruction tells beyond what the attacker could guess without the update."""

import torch
from torch import Tensor

from fl_audit.metrics._base import ContextMetric
from fl_audit.metrics._context import Context
from fl_audit.metrics._registry import metrics
from fl_audit.metrics.structure import ssim

LEAST_PRIOR = 0.01
"""SSIM of the prior below which a ratio to it says nothing."""


def relative_leakage(similarity: Tensor, prior: Tensor) -> Tensor:
    """``(similarity - prior) / prior``, ``(N,)``; NaN where the prior's similarity is under `LEAST_PRIOR`."""
    return torch.where(prior >= LEAST_PRIOR, (similarity - prior) / prior, torch.nan)


@metrics.register("rdlv")
class RelativeDataLeakage(ContextMetric):
    """Relative data leakage value: SSIM above that of the attacker's prior, relative to it.

    Hatamizadeh et al., "Do Gradient Inversion Attacks Make Federated Learning Unsafe?", IEEE TMI 2023,
    https://arxiv.org/abs/2202.06924: (SIM(T, I) - SIM(T, P)) / SIM(T, P) for the training image T, its
    reconstruction I and the prior P, with SSIM for SIM. 0: the update told nothing. In a run the prior is the
    mean of held-out images. Differs: undefined, not huge, where the prior's SSIM is under 0.01.
    """

    better = "higher"
    range = (-float("inf"), float("inf"))
    wants = frozenset({"prior"})
    label = "RDLV"
    brief = False
    undefined = f"the prior's SSIM is under {LEAST_PRIOR}, so nothing can be related to it"

    def _score_in(self, originals: Tensor, reconstructions: Tensor, context: Context) -> Tensor:
        if context.prior is None:
            raise ValueError("expected the attacker's prior in the context")
        return relative_leakage(ssim(originals, reconstructions), ssim(originals, context.prior))
