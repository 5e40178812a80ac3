"""What can be measured of a pair by who knows more than the server: the numbers that the oracle judges by.

Training makes its own pairs, so it knows the image that the client trained on (the *victim*), in place under
the reconstruction. `evidence` puts into numbers how much of the victim is in the reconstruction (correlation,
strength and rest in bands of detail, SSIM of parts, edges, colours) and how much of the original was left in
the victim.
"""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from fl_audit.semsim.structure import agreement, bands, even, ssim
from fl_audit.semsim.transforms import luminance

NAMES = (
    "agreement", "ssim", "colour", "chroma", "coarse", "contrast", "own_contrast",
    "correlation_2", "strength_2", "rest_2", "seen_2", "correlation_4", "strength_4", "rest_4", "seen_4",
    "correlation_8", "strength_8", "rest_8", "seen_8",
    "parts_25", "parts_50", "parts_90", "parts", "half_50", "half",
    "edges", "edge_places", "half_edges", "half_edge_places",
    "visible", "kept", "away", "own_2", "own_4", "own_8",
)  # fmt: skip
"""What each column is. The figures are pixels a period, or hundredths of the area; half: at 16x16."""


def evidence(
    originals: Tensor, victims: Tensor, reconstructions: Tensor, visible: Tensor, kept: Tensor
) -> Tensor:
    """The numbers of each pair, float32 ``(N, len(NAMES))``.

    Args:
        originals: float32 ``(N, 3, 32, 32)`` in [0, 1].
        victims: what the client trained on, the same shape.
        reconstructions: the same shape, in place over the victims.
        visible: share of the original that is in the victim's frame, ``(N,)``.
        kept: how much of the original's structure is left in the victim, `structure.transform_grade`.
    """
    evened = even(victims, reconstructions)
    own, theirs, level = luminance(victims), luminance(reconstructions), luminance(evened)
    small = avg_pool2d(own, 2)
    own_bands, their_bands = bands(victims), bands(reconstructions)
    columns = [
        agreement(own_bands, their_bands),
        ssim(victims, evened),
        _correlation(victims - own, reconstructions - theirs, centred=False),
        (reconstructions - theirs).flatten(1).std(1),
        _correlation(avg_pool2d(own, 8), avg_pool2d(theirs, 8)),
        theirs.flatten(1).std(1),
        own.flatten(1).std(1),
    ]
    for a, b in zip(own_bands, their_bands, strict=True):
        columns += _band(a, b)
    full, half = _parts(own, level, 7), _parts(small, avg_pool2d(level, 2), 5)
    columns += [*_quantiles(full[0], (0.25, 0.5, 0.9)), full[1], *_quantiles(half[0], (0.5,)), half[1]]
    columns += [*_edges(own, theirs), *_edges(small, avg_pool2d(theirs, 2))]
    columns += [visible, kept, (originals - victims).square().flatten(1).mean(1)]
    columns += [_strength(band) for band in bands(originals)]
    return torch.stack(columns, 1)


def _band(own: Tensor, theirs: Tensor) -> list[Tensor]:
    """Correlation, strength against the victim's, what does not come from it, and what does."""
    shared = (own * theirs).flatten(1).mean(1)
    energy, other = _strength(own).square(), _strength(theirs).square()
    return [
        shared / (energy * other).sqrt().clamp(min=1e-5),
        (other / energy.clamp(min=1e-6)).sqrt().clamp(max=5),
        (other - shared.square() / energy.clamp(min=1e-6)).clamp(min=0).sqrt(),
        shared.clamp(min=0).sqrt(),
    ]


def _parts(own: Tensor, theirs: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Structure of SSIM around every pixel ``(N, H * W)``, and its mean weighted by the victim's variance."""

    def mean(x: Tensor) -> Tensor:
        return avg_pool2d(x, window, 1, window // 2, count_include_pad=False)

    a, b = mean(own), mean(theirs)
    var_a, var_b = mean(own * own) - a * a, mean(theirs * theirs) - b * b
    found = ((2 * (mean(own * theirs) - a * b) + 9e-4) / (var_a + var_b + 9e-4)).flatten(1)
    weights = var_a.flatten(1) / (var_a.flatten(1).mean(1, keepdim=True) + 1e-6)
    return found, (found * weights).mean(1)


def _quantiles(values: Tensor, shares: tuple[float, ...]) -> list[Tensor]:
    ordered = values.sort(1).values
    return [ordered[:, round(share * (values.shape[1] - 1))] for share in shares]


def _edges(own: Tensor, theirs: Tensor) -> list[Tensor]:
    """Whether edges run the same way at the same places, and whether edges of any direction are there."""
    (ay, ax), (by, bx) = _slopes(own), _slopes(theirs)
    a, b = (ay.square() + ax.square()).sqrt(), (by.square() + bx.square()).sqrt()
    size = (a.square().flatten(1).sum(1) * b.square().flatten(1).sum(1)).sqrt().clamp(min=1e-6)
    return [(ay * by + ax * bx).flatten(1).sum(1) / size, _correlation(a, b)]


def _slopes(x: Tensor) -> tuple[Tensor, Tensor]:
    corner = x[..., :-1, :-1]
    return x[..., 1:, :-1] - corner, x[..., :-1, 1:] - corner


def _correlation(x: Tensor, y: Tensor, *, centred: bool = True) -> Tensor:
    a, b = x.flatten(1), y.flatten(1)
    if centred:
        a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return (a * b).mean(1) / (a.square().mean(1) * b.square().mean(1)).sqrt().clamp(min=1e-5)


def _strength(band: Tensor) -> Tensor:
    """Root mean square of each image, ``(N,)``."""
    return band.square().flatten(1).mean(1).sqrt()
