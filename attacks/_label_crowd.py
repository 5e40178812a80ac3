"""What each image adds to the moments of the last layer's gradient, given how logits are distributed.

See `_label_moments`, which weighs them.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_audit.attacks._last_layer import LastLayer
from fl_audit.core.seeding import torch_generator

POINTS = 192
"""Logits that a class's distribution is averaged over."""

OWN = 0.7
"""Share, in standard deviations, of the stand-ins themselves in these; the rest is normal."""

STRETCH = 0.1
"""Largest mean square shift by calibration, in units of the logits' variance."""


@dataclass(frozen=True)
class Crowd:
    """Images that a client's may be like.

    Attributes:
        logits: without bias, ``(P, K)``.
        offset: what the offset's gradient weighs them by, ``(P, 1)``.
        bias: ``(K,)``.
        centre: mean of ``logits``, ``(K,)``.
        root: square root of their covariance, ``(K, K)``.
        seen: the gradient's moments about ``centre``, up to the scale, ``(Q,)``.
    """

    logits: Tensor
    offset: Tensor
    bias: Tensor
    centre: Tensor
    root: Tensor
    seen: Tensor


@dataclass(frozen=True)
class Linear:
    """The statistic, linearised around one shift of the logits, for an image of each class.

    Attributes:
        mean: ``(K, Q)``.
        covariance: ``(K, Q, Q)``.
        leaned: derivative by a shift in units of the logits' covariance, ``(K, Q, K)``.
    """

    mean: Tensor
    covariance: Tensor
    leaned: Tensor


def crowd_of(layer: LastLayer, *, calibrated: bool) -> Crowd:
    """Logits of images like the stand-ins, as they are or half way towards calibrated ones."""
    shown = layer.embeddings
    logits, offset = shown @ layer.weight.T, layer.offset_feature(shown)
    spread = torch.cov(logits.T)
    spread = spread + 1e-2 * spread.diagonal().mean() * torch.eye(layer.classes, dtype=spread.dtype)
    values, vectors = torch.linalg.eigh(spread)
    root = vectors * values.clamp(min=1e-300).sqrt()
    if calibrated:
        shift = _calibration(logits + layer.bias) / 2
        far = float(((shift @ vectors).square() / values.clamp(min=1e-300)).mean())
        logits = logits + shift * min(1.0, math.sqrt(STRETCH / max(far, 1e-300)))
    both = torch.cat([logits, offset[:, None]], 1)
    deviations = both - both.mean(0)
    half = torch.randn(
        POINTS // 2, len(shown), generator=torch_generator(0, "points"), dtype=torch.float64
    ) / math.sqrt(max(len(shown) - 1, 1))
    own = deviations[torch.arange(POINTS) % len(shown)]
    points = both.mean(0) + OWN * own + math.sqrt(1 - OWN**2) * torch.cat([half, -half]) @ deviations
    centre, gradient = points[:, :-1].mean(0), layer.offset_gradient
    moments = layer.weight_gradient @ layer.weight.T - gradient[:, None] * centre
    return Crowd(
        logits=points[:, :-1],
        offset=points[:, -1:],
        bias=layer.bias,
        centre=centre,
        root=root,
        seen=torch.cat([moments, gradient[:, None]], 1).flatten(),
    )


def _calibration(logits: Tensor) -> Tensor:
    """Shift of the logits ``(P, K)`` at which the mean probabilities are equal, as training makes them.

    Half of it is applied, and little: a model need not be trained, nor its classes be equally frequent.
    """
    shift = logits.new_zeros(logits.shape[1])
    for _ in range(20):
        mean = (logits + shift).softmax(1).mean(0)
        shift = shift - (mean * len(mean)).clamp(min=1e-30).log().clamp(-2, 2)
    return shift - shift.mean()


def linearised(crowd: Crowd, common: Tensor, by_class: Tensor) -> Linear:
    """The statistic around logits shifted by ``common`` ``(K,)`` and ``by_class`` ``(K, K)``."""
    around = crowd.logits + common
    likely = (around + crowd.bias).softmax(1)
    weights = (likely / likely.sum(0).clamp(min=1e-30)).T
    mean, covariance, slopes = _moments(
        around + by_class[:, None], crowd.bias, crowd.centre, crowd.offset, weights
    )
    mean = mean - torch.einsum("cql,cl->cq", slopes, common + by_class)
    return Linear(mean, covariance, slopes @ crowd.root)


def _moments(
    logits: Tensor, bias: Tensor, centre: Tensor, offset: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, covariance and mean derivative of the statistic of an image of each class.

    Args:
        logits: without bias, of each class's images, ``(K, P, K)``.
        bias: ``(K,)``.
        centre: what the logits are taken relative to, ``(K,)``.
        offset: last entry of the features, ``(P, 1)``.
        weights: of the points, adding up to 1 for each class, ``(K, P)``.

    Returns:
        ``(K, Q)``, ``(K, Q, Q)`` and, by the logits, ``(K, Q, K)``, with ``Q = K (K + 1)``.
    """
    classes = len(bias)
    eye = torch.eye(classes, dtype=bias.dtype)
    probabilities = (logits + bias).softmax(-1)
    residuals = probabilities - eye[:, None]
    features = torch.cat([logits - centre, offset.expand(classes, -1, -1)], 2)
    statistic = (residuals[..., :, None] * features[..., None, :]).flatten(2)
    mean = torch.einsum("cp,cpq->cq", weights, statistic)
    weighted = weights[..., None] * statistic
    covariance = weighted.transpose(1, 2) @ statistic - mean[:, :, None] * mean[:, None, :]
    # d(r_i f_k) / dz_l = p_i (1[i = l] - p_l) f_k + r_i 1[k = l]
    likely = weights[..., None] * probabilities
    product = (likely[..., :, None] * features[..., None, :]).flatten(2)
    slopes = -(product.transpose(1, 2) @ probabilities).view(classes, classes, classes + 1, classes)
    places = torch.arange(classes)
    slopes[:, places, :, places] += (likely.transpose(1, 2) @ features).transpose(0, 1)
    own = torch.eye(classes + 1, dtype=bias.dtype)[:, :classes]
    slopes = slopes + torch.einsum("cp,cpi->ci", weights, residuals)[:, :, None, None] * own
    return mean, covariance, slopes.flatten(1, 2)
