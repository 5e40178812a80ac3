"""Losses on distances of features: triplet, contrastive, classification, and ranking. Pure functions."""

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

MARGIN = 1.0
_TINY = 1e-6


def l2(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distance of rows, with torch's own small offset so that the slope at zero exists."""
    distances: Tensor = (a - b + _TINY).norm(dim=-1)
    return distances


def triplet_loss(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = MARGIN) -> Tensor:
    """``mean(max(|a - p| - |a - n| + margin, 0))`` with the L2 norm.

    Sun et al., "Privacy Assessment on Reconstructed Images", NeurIPS 2023, https://arxiv.org/abs/2309.13038,
    equation 1: anchor the original, positive a recognisable, negative an unrecognisable reconstruction.

    Args:
        anchor: features ``(N, F)``.
        positive: ``(N, F)``.
        negative: ``(N, F)``.
        margin: by how much the negative must be farther.
    """
    return (l2(anchor, positive) - l2(anchor, negative) + margin).clamp(min=0).mean()


def contrastive_loss(distances: Tensor, labels: Tensor, margin: float = MARGIN) -> Tensor:
    """``mean(y d^2 + (1 - y) max(margin - d, 0)^2)`` (Hadsell, Chopra and LeCun, CVPR 2006, equation 4).

    Args:
        distances: ``(N,)``.
        labels: 1 recognisable, 0 not, ``(N,)``; shares between are weights.
        margin: distance from which an unrecognisable pair costs nothing.
    """
    return (labels * distances.square() + (1 - labels) * (margin - distances).clamp(min=0).square()).mean()


def classification_loss(distances: Tensor, labels: Tensor, margin: float = MARGIN) -> Tensor:
    """Cross entropy of the label with ``margin - d`` as the logit: no triplets, each pair on its own."""
    return binary_cross_entropy_with_logits(margin - distances, labels)


def stranger_loss(near: Tensor, far: Tensor, margin: float = MARGIN) -> Tensor:
    """The triplet loss with every recognisable pair against every pair of different pictures.

    Strangers are held against clear pairs alone: who recognises an image must not take another for it, but
    an image that nobody recognises may be as far away as another one is.

    Args:
        near: distances of recognisable pairs, ``(N,)``; none cost nothing.
        far: distances of pairs of different pictures, ``(M,)``.
        margin: by how much they must be farther.
    """
    hinge = (near[:, None] - far[None] + margin).clamp(min=0)
    return hinge.sum() / max(hinge.numel(), 1)


def ranking_loss(distances: Tensor, grades: Tensor, gap: float = 0.1, margin: float = MARGIN) -> Tensor:
    """The triplet loss over all pairs of a batch, whatever their anchors.

    Every two pairs whose grades differ by more than ``gap`` count; the margin grows with the difference, up
    to ``margin`` at half the scale. Equal to `triplet_loss` where the two share their original and differ by
    half the scale or more.

    Args:
        distances: ``(N,)``.
        grades: recognisability in [0, 1], ``(N,)``.
        gap: least difference of grades that says anything.
        margin: for grades that differ by half the scale or more.
    """
    difference = grades[None, :] - grades[:, None]
    wanted = (2 * difference).clamp(0, 1) * margin
    hinge = (distances[None, :] - distances[:, None] + wanted).clamp(min=0)
    counted = (difference > gap).float()
    return (hinge * counted).sum() / counted.sum().clamp(min=1)
