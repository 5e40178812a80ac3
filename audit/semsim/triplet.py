"""Losses on distances of features: triplet, contrastive, classification, and ranking. Pure functions."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

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


def retrieval_loss(own: Tensor, other: Tensor, grades: Tensor, sharpness: float = 3.0) -> Tensor:
    """Whether the original can be picked out of the batch: a smooth triplet loss against all strangers.

    Cross entropy of the right original under ``softmax(-sharpness * d)`` over originals, weighted by the
    grade (Sohn, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective", NeurIPS 2016, eq.
    6, with distances for inner products). With two originals it is a triplet loss whose hinge is smooth.

    Args:
        own: features of the originals ``(N, F)``.
        other: of their reconstructions ``(N, K, F)``.
        grades: ``(N, K)`` in [0, 1].
        sharpness: by how much a unit of distance changes the log-odds.
    """
    flat, weights = other.flatten(0, 1), grades.flatten()
    between = l2(flat[:, None], own[None])
    rows = torch.arange(len(own), device=own.device).repeat_interleave(grades.shape[1])
    wrong = cross_entropy(-sharpness * between, rows, reduction="none") / sharpness
    return (weights * wrong).sum() / weights.sum().clamp(min=1)


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
