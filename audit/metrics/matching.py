"""Which reconstruction belongs to which original: one to one, by least total squared error."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fl_audit.core.images import check_images


def match(originals: Tensor, reconstructions: Tensor) -> Tensor:
    """For each original the index of its reconstruction.

    The direction matters and is this: ``reconstructions[match(originals, reconstructions)]`` lies in the
    originals' order (`arrange` does that, and handles -1).

    Args:
        originals: float32 ``(N, C, H, W)`` in [0, 1].
        reconstructions: ``(M, C, H, W)``; fewer or more than originals are fine. Those that hold NaN or
            inf are matched last.

    Returns:
        int64 ``(N,)``; -1 where there are fewer reconstructions than originals.

    Raises:
        ValueError: images differ in shape.
    """
    check_images(originals, "originals")
    if reconstructions.ndim != 4 or reconstructions.shape[1:] != originals.shape[1:]:
        raise ValueError(
            f"reconstructions: expected (M, {', '.join(map(str, originals.shape[1:]))}) like the originals, "
            f"got {tuple(reconstructions.shape)}"
        )
    result = torch.full((len(originals),), -1, dtype=torch.int64)
    if not len(originals) or not len(reconstructions):
        return result
    rows = originals.detach().cpu().double().flatten(1)
    columns = reconstructions.detach().cpu().double().flatten(1)
    cost = torch.stack([(row - columns).square().mean(1) for row in rows])
    # A usable image costs at most 1; one with NaN or inf costs more than all usable ones together.
    cost = torch.where(cost.isfinite(), cost.clamp(max=1.0), float(len(rows) + 1))
    chosen, theirs = linear_sum_assignment(cost.numpy())
    result[torch.from_numpy(chosen)] = torch.from_numpy(theirs).long()
    return result


def arrange(reconstructions: Tensor, matching: Tensor) -> Tensor:
    """The reconstructions in the originals' order; an image of NaN where `match` says -1.

    Args:
        reconstructions: float ``(M, C, H, W)``.
        matching: int64 ``(N,)``, from `match`.

    Returns:
        ``(N, C, H, W)``.
    """
    missing = torch.full((1, *reconstructions.shape[1:]), float("nan"), dtype=reconstructions.dtype)
    # The missing image is the last row, which is what the index -1 means.
    return torch.cat([reconstructions, missing.to(reconstructions.device)])[matching]
