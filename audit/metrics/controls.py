"""The negative control: what a guess scores that has seen no update."""

import torch
from torch import Tensor

from fl_audit.core.images import check_images
from fl_audit.core.seeding import numpy_generator


def negative_guesses(
    originals: Tensor, labels: Tensor, pool_images: Tensor, pool_labels: Tensor, seed: int
) -> dict[str, Tensor]:
    """What somebody would hand in for ``originals`` who knows the data set and the labels, but no update.

    Args:
        originals: float32 ``(N, C, H, W)`` in [0, 1].
        labels: int64 ``(N,)``.
        pool_images: float32 ``(M, C, H, W)`` in [0, 1], images that no client holds, M at least 1.
        pool_labels: int64 ``(M,)``.
        seed: run seed. The draw for an original depends on it and on the original's position.

    Returns:
        Guesses by kind, float32 ``(N, C, H, W)`` each, to be scored like reconstructions: ``mean-image``,
        the mean of the pool; ``same-class``, another image of the original's class, all NaN and hence
        unscored where the pool has none. An image that equals the original is never drawn for it.

    Raises:
        ValueError: shapes differ, or the pool is empty.
    """
    check_images(originals, "originals")
    check_images(pool_images, "pool_images")
    if pool_images.shape[1:] != originals.shape[1:] or not len(pool_images):
        raise ValueError(
            f"pool_images: expected at least one image of {tuple(originals.shape[1:])}, got "
            f"{tuple(pool_images.shape)}"
        )
    if labels.shape != (len(originals),) or pool_labels.shape != (len(pool_images),):
        raise ValueError(
            f"expected one label an image: {len(originals)} and {len(pool_images)}, got "
            f"{tuple(labels.shape)} and {tuple(pool_labels.shape)}"
        )
    mean = pool_images.double().mean(0).float().clamp(0, 1)
    same_class = torch.full_like(originals, float("nan"))
    for row, (original, label) in enumerate(zip(originals, labels.tolist(), strict=True)):
        rows = torch.nonzero(pool_labels == label).flatten()
        different = (pool_images[rows] != original).flatten(1).any(1)
        rows = rows[different]
        if len(rows):
            draw = numpy_generator(seed, "negative-control", row).integers(len(rows))
            same_class[row] = pool_images[rows[int(draw)]]
    return {"mean-image": mean.expand_as(originals).clone(), "same-class": same_class}
