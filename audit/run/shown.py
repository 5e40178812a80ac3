"""Which images of one update are graded and drawn: all, or of very many the first few hundred."""

from dataclasses import dataclass

import torch
from torch import Tensor

MOST = 256
"""Images of one update that are graded and drawn at most: each is two files and several networks' work."""

RULE = (
    f"of each update at most {MOST} images are graded and drawn: those with a reconstruction first, in the "
    "order in which the client first used them. The others are counted as not graded; their originals and "
    "reconstructions lie in the run folder's tensors"
)

BEYOND = f"beyond the {MOST} images of one update that are graded"


@dataclass(frozen=True)
class Shown:
    """A choice among the originals of one update.

    Attributes:
        partner: int64 ``(N,)``, the reconstruction by which each is graded; -1 where it is not.
        drawn: bool ``(N,)``, whether there are pictures of it.
        beyond: bool ``(N,)``, whether it has a reconstruction and is not graded, because of the limit.
    """

    partner: Tensor
    drawn: Tensor
    beyond: Tensor


def shown(partner: Tensor) -> Shown:
    """Choose by the reconstruction that each original was matched to, ``(N,)``; -1: none."""
    matched = partner >= 0
    first = torch.cat([torch.nonzero(matched).flatten(), torch.nonzero(~matched).flatten()])[:MOST]
    drawn = torch.zeros(len(partner), dtype=torch.bool)
    drawn[first] = True
    return Shown(torch.where(drawn, partner, -1), drawn, matched & ~drawn)
