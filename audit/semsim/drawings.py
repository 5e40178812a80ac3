"""Drawn pictures for training: strokes on a plain ground, as handwriting, signs and logos have them.

The data sets at hand hold photographs. What a federation trains on is as often handwriting, symbols or scans:
few edges, two colours, much that is flat.
"""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fl_audit.semsim.pictures import SIDE, Pictures

COUNT, CLASSES = 8000, 400
WEIGHT = 0.4
"""Of drawings beside a set of photographs, which weighs 1."""
_STROKES, _POINTS = 3, 40
_CHUNK = 500
"""Pictures drawn at once."""


def drawings(generator: torch.Generator, count: int = COUNT, classes: int = CLASSES) -> Pictures:
    """Drawn pictures; those of a class have the same strokes, each drawn by another hand.

    One to three strokes, open or closed, thin or thick; black on white, white on black or in two colours; a
    third of them drawn on a coarser grid and enlarged, as small scans are.

    Args:
        generator: CPU generator.
        count: of pictures.
        classes: they are spread evenly over them.
    """
    kinds = torch.arange(count) % classes
    shapes = torch.rand(classes, _STROKES, 4, 2, generator=generator) * 1.5 - 0.75
    used = torch.rand(classes, _STROKES, generator=generator) < torch.tensor([1.0, 0.65, 0.35])
    closed = torch.rand(classes, _STROKES, generator=generator) < 0.3
    found = []
    for rows in torch.split(torch.arange(count), _CHUNK):
        n, kind = len(rows), kinds[rows]
        points = shapes[kind] + 0.1 * torch.randn(n, _STROKES, 4, 2, generator=generator)
        width = 0.05 + 0.12 * torch.rand(n, 1, 1, generator=generator)
        ink = _ink(points, used[kind], closed[kind], width)[:, None]
        ink = torch.where(torch.rand(n, 1, 1, 1, generator=generator) < 0.33, _coarser(ink), ink)
        found.append(_coloured(ink, generator))
    return Pictures("drawings", (torch.cat(found) * 255).round().to(torch.uint8), kinds, WEIGHT)


def _ink(points: Tensor, used: Tensor, closed: Tensor, width: Tensor) -> Tensor:
    """Ink ``(N, 32, 32)`` in [0, 1] along Bezier curves of ``(N, S, 4, 2)`` control points."""
    last = torch.where(closed[..., None, None], points[:, :, :1], points[:, :, 3:])
    points = torch.cat([points[:, :, :3], last], 2)
    t = torch.linspace(0, 1, _POINTS)[:, None]
    weights = torch.cat([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], 1)
    curve = 1.2 * torch.einsum("pk,nskc->nspc", weights, points)
    curve = torch.where(used[..., None, None], curve, 9.0).flatten(1, 2)
    line = torch.linspace(-1 + 1 / SIDE, 1 - 1 / SIDE, SIDE)
    grid = torch.cartesian_prod(line, line).expand(len(points), -1, -1)
    away = torch.cdist(grid, curve).amin(2).view(-1, SIDE, SIDE)
    return ((width - away) / 0.06 + 0.5).clamp(0, 1)


def _coarser(ink: Tensor) -> Tensor:
    small = interpolate(ink, scale_factor=0.3, mode="area")
    return interpolate(small, ink.shape[2:], mode="bilinear", align_corners=False)


def _coloured(ink: Tensor, generator: torch.Generator) -> Tensor:
    """Half white on black, a quarter black on white, a quarter in two colours that can be told apart."""
    n = len(ink)
    ground, pen = torch.rand(2, n, 3, 1, 1, generator=generator)
    pen = torch.where((pen - ground).abs().amax(1, keepdim=True) < 0.4, (ground + 0.5) % 1, pen)
    kind = torch.rand(n, 1, 1, 1, generator=generator)
    plain = torch.where(kind < 0.5, ink, 1 - ink).expand(-1, 3, -1, -1)
    return torch.where(kind < 0.75, plain, ground + (pen - ground) * ink)
