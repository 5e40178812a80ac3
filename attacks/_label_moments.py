"""Label counts from the moments of the last layer's gradient, by generalised least squares.

For images j with logits ``z_j = u_j + b``, residuals ``r_j = softmax(z_j) - y_j`` and last-layer gradients W
(weight) and b (bias), ``N b = sum_j r_j`` and ``N W weight^T = sum_j r_j u_j^T``: sums over images of a
statistic of each image's logits and label. Given how logits of a class are distributed, each class adds its
mean ``psi_c`` for every image, so that the sums are linear in the counts, with a covariance that adds up
likewise; the counts are then a least-squares problem, weighted by that covariance.

How logits are distributed the attacker learns from images that stand in for the client's, with labels drawn
from the model's own probabilities (exact for a calibrated model), and from the gradient itself: shifts of all
logits and of each class's are estimated with the counts, linearised anew in every round (an iterated extended
Kalman filter). Where probabilities hardly differ between images, as in an untrained model, the covariance
vanishes and the counts are exact.

In the spirit of: Chen and Vikalo, "Recovering Labels from Local Updates in Federated Learning" (RLU), ICML
2024, https://arxiv.org/abs/2405.00955 (least squares on the expected confidence in wrong classes); Wainakh et
al., "User-Level Label Leakage from Gradients in Federated Learning" (LLG), PETS 2022,
https://arxiv.org/abs/2105.09369. Differs in: the weight's gradient is used beside the bias's, with their
joint covariance, and no data is needed.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_audit.attacks._label_counts import real_counts, rounded, whole_counts
from fl_audit.attacks._label_crowd import Crowd, Linear, crowd_of, linearised
from fl_audit.attacks._last_layer import LastLayer

MAX_CLASSES = 24
"""With K classes the statistic has K (K + 1) entries."""

COMMON = 0.25
"""Variance of a shift of all logits that stand-ins do not show, in units of the logits' covariance."""

BY_CLASS = 0.3
"""Likewise of each class apart.

Of nine models, untrained and trained on CIFAR-10 (JPEG) and Caltech-101, the median of the first was 0.19
and of the second 0.19.
"""

RIDGE = 1e-2
"""Relative variance added to each entry: the moments are those of few stand-ins."""

ROUNDS = 4

DAMPING = 0.7
"""Share of the way that shifts go in a round: whole steps overshoot where gradients are small."""

RESCALINGS = 3

FREEDOM = 0.2
"""Degrees of freedom of the likelihood by which fits are compared, over the number of moments."""

SCALES = 40
"""Scales looked at where it is unknown, each by ``STEP`` times larger than the one before."""

STEP = 1.1


class _DegenerateError(Exception):
    """The moments have no covariance."""


@dataclass(frozen=True)
class Fit:
    """Counts, and how they were weighed.

    Attributes:
        counts: int64 ``(K,)``.
        quadratic: A of the cost ``n^T A n - 2 c^T n``, ``(K, K)``.
        linear: c, ``(K,)``.
        scale: factor on the mean gradient.
        evidence: logarithm of the likelihood of the gradient, up to a constant.
        cost: squared distance between the moments seen and expected, in standard deviations.
    """

    counts: Tensor
    quadratic: Tensor
    linear: Tensor
    scale: float
    evidence: float
    cost: float


def fit_counts(layer: LastLayer, images: int, *, also: float | None = None) -> Fit | None:
    """Fit counts that add up to ``images``; see the module. None if stand-ins show nothing.

    Args:
        layer: the last layer, with `MAX_CLASSES` at most.
        images: N.
        also: a scale to try besides where it is unknown.
    """
    fits = []
    for crowd in (crowd_of(layer, calibrated=False), crowd_of(layer, calibrated=True)):
        free = layer.scale is None
        try:
            scales = _likely_scales(crowd, images) if layer.scale is None else [layer.scale]
            scales += [also] if free and also is not None else []
            fits += [_fit(crowd, images, scale, free=free) for scale in scales]
        except _DegenerateError:
            continue
    return max(fits, key=lambda fit: fit.evidence, default=None)


def _fit(crowd: Crowd, images: int, scale: float, *, free: bool = False) -> Fit:
    """Counts, shifts and, if ``free``, the scale in turn: of all rounds the one of most evidence."""
    classes = len(crowd.bias)
    offset = crowd.seen.view(classes, -1)[:, -1]
    expected = (crowd.logits + crowd.bias).softmax(1).mean(0)
    counts = rounded(images * (expected - offset / scale), images).double()
    common, by_class = torch.zeros_like(crowd.centre), torch.zeros_like(crowd.root)
    fits = []
    for _ in range(ROUNDS):
        linear = linearised(crowd, common, by_class)
        for _ in range(2):
            weighed = _Weighed.of(linear, counts, images * crowd.seen)
            counts = real_counts(weighed.quadratic, weighed.linear / scale, images)
        fits.append(weighed.fit(counts, scale, free=free))
        scale = fits[-1].scale
        left = weighed.solved[:, -1] / scale - weighed.solved[:, :-1] @ counts
        pulls = torch.einsum("cql,q->cl", linear.leaned, left)
        common = (1 - DAMPING) * common + DAMPING * COMMON * crowd.root @ (counts @ pulls)
        by_class = (1 - DAMPING) * by_class + DAMPING * BY_CLASS * counts[:, None] * pulls @ crowd.root.T
    return max(fits, key=lambda fit: fit.evidence)


@dataclass(frozen=True)
class _Weighed:
    """Least squares for the counts at scale 1.

    Attributes:
        quadratic: the cost's, ``(K, K)``.
        linear: the cost's, ``(K,)``.
        constant: the cost's.
        solved: the inverse covariance times the classes' means and the moments seen, ``(Q, K + 1)``.
        log_determinant: of the covariance.
    """

    quadratic: Tensor
    linear: Tensor
    constant: float
    solved: Tensor
    log_determinant: float

    @classmethod
    def of(cls, linear: Linear, counts: Tensor, seen: Tensor) -> "_Weighed":
        """Weigh by the covariance that ``counts`` images have."""
        total = torch.einsum("c,cql->ql", counts, linear.leaned)
        each = (counts[:, None, None] * linear.leaned).permute(1, 0, 2).flatten(1)
        unsure = torch.cat([math.sqrt(COMMON) * total, math.sqrt(BY_CLASS) * each], 1)
        noise = torch.einsum("c,cqr->qr", counts + 0.1, linear.covariance) + unsure @ unsure.T
        size = noise.diagonal()
        noise = noise + torch.diag(RIDGE * size + 1e-9 * size.max().clamp(min=1e-200))
        factor, failed = torch.linalg.cholesky_ex(noise)
        if int(failed):
            raise _DegenerateError
        solved = torch.cholesky_solve(torch.cat([linear.mean.T, seen[:, None]], 1), factor)
        quadratic = linear.mean @ solved[:, :-1]
        return cls(
            quadratic=(quadratic + quadratic.T) / 2,
            linear=linear.mean @ solved[:, -1],
            constant=float(seen @ solved[:, -1]),
            solved=solved,
            log_determinant=2 * float(factor.diagonal().log().sum()),
        )

    def fit(self, counts: Tensor, scale: float, *, free: bool) -> Fit:
        """Whole counts near ``counts``, and if ``free`` the scale most likely with them."""
        images, size = round(float(counts.sum())), len(counts) ** 2 - 1
        for _ in range(RESCALINGS if free else 1):
            whole, value = whole_counts(self.quadratic, self.linear / scale, rounded(counts, images))
            cost = max(value + self.constant / scale**2, 0.0)
            fit = Fit(whole, self.quadratic, self.linear / scale, scale, self.evidence(cost, scale), cost)
            if free:
                # Of the Student density, with its weight held, the maximum by the inverse scale.
                weight = (1 + FREEDOM) * size / (FREEDOM * size + cost)
                along = weight * float(self.linear @ whole.double())
                square = weight * self.constant
                scale = 2 * square / (along + math.sqrt(along**2 + 4 * square * size))
        return fit

    def evidence(self, cost: float, scale: float) -> float:
        """Logarithm of a Student density of the gradient: stand-ins are only roughly like real images."""
        size = len(self.linear) ** 2 - 1
        freedom = FREEDOM * size
        spread = (freedom + size) / 2 * math.log1p(cost / freedom)
        return -spread - self.log_determinant / 2 - size * math.log(scale)


def _likely_scales(crowd: Crowd, images: int) -> list[float]:
    """The three scales of most evidence without shifts.

    The gradient of the offset is the scale times the difference of two distributions, mean probabilities
    and labels: the scale is at least half the sum of its absolute values.
    """
    offset = crowd.seen.view(len(crowd.bias), -1)[:, -1]
    smallest = max(float(offset.abs().sum()) / 2, 1e-30)
    linear = linearised(crowd, torch.zeros_like(crowd.centre), torch.zeros_like(crowd.root))
    expected = (crowd.logits + crowd.bias).softmax(1).mean(0)
    fits = []
    for step in range(SCALES):
        scale = smallest * STEP**step
        counts = rounded(images * (expected - offset / scale), images).double()
        weighed = _Weighed.of(linear, counts, images * crowd.seen)
        counts = real_counts(weighed.quadratic, weighed.linear / scale, images)
        fits.append(weighed.fit(counts, scale, free=True))
    best: list[float] = []
    for fit in sorted(fits, key=lambda fit: fit.evidence, reverse=True):
        if all(abs(math.log(fit.scale / other)) > math.log(STEP) for other in best):
            best.append(fit.scale)
    return best[:3]
