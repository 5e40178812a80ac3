"""How much of an update is noise, as its smallest entries show."""

from collections.abc import Sequence

from torch import Tensor

QUANTILE = 0.1
"""Share of a tensor's entries that are looked at, the smallest ones."""

DEVIATIONS = 0.12566
"""What that share of normal noise stays below, in standard deviations."""

FEWEST = 64
"""Entries that a tensor must have to be judged."""


def noise_share(observed: Sequence[Tensor]) -> float:
    """Share of the squared norm of an update that independent noise of one size would explain, in [0, 1].

    The tensors of a gradient differ in size by orders of magnitude, and each has entries next to zero; noise
    fills them all alike. So the quietest tensor bounds it: its standard deviation is at most the one whose
    10% quantile of magnitudes is that tensor's (the robust estimate of Donoho and Johnstone, "Ideal spatial
    adaptation by wavelet shrinkage", Biometrika 1994, with a lower quantile than the median). Entries that
    are exactly zero hold no noise.

    Args:
        observed: the tensors of one update, ``(*shape)`` each.
    """
    judged = [tensor.flatten() for tensor in observed if tensor.numel() >= FEWEST]
    if not judged:
        return 0.0
    quantiles = [float(t.abs().kthvalue(max(int(QUANTILE * t.numel()), 1)).values) for t in judged]
    energy = sum(float(tensor.double().square().sum()) for tensor in observed)
    entries = sum(tensor.numel() for tensor in observed)
    return min(entries * (min(quantiles) / DEVIATIONS) ** 2 / max(energy, 1e-300), 1.0)
