"""The networks behind SemSim, and the one place where its input is handled.

A backbone maps images to features; the score of a pair is the L2 distance of the two feature vectors.
Networks run in eval mode (batch norm by stored statistics), so that an image's features do not depend on what
else is in the batch.
"""

from collections.abc import Callable, Iterator
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from fl_audit.semsim.lite import FEATURES, Lite

SIDE = 32
"""Pixels: every image is brought to this size, as reconstructions rarely hold more."""
BATCH = 32
"""Images in one forward pass, with all their views, always: a smaller last batch is filled up. Libraries
choose their kernels by the shape, so that an image's features would otherwise change in the last bits with
the number of its neighbours."""

Backbone = Literal["lenet", "lite", "narrow", "resnet18", "resnet34", "twin"]
BACKBONES: tuple[Backbone, ...] = get_args(Backbone)


def prepare(images: Tensor) -> Tensor:
    """Any images as the backbones take them.

    Args:
        images: float ``(N, C, H, W)`` in [0, 1], C 1 (repeated to three) or 3, any size (scaled to 32x32,
            bilinear, antialiased; the two sides on their own).

    Returns:
        float32 ``(N, 3, 32, 32)``, about -2 to 2.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
        raise ValueError(f"expected images (N, C, H, W) with C 1 or 3, got {tuple(images.shape)}")
    images = images.float().expand(-1, 3, -1, -1)
    if images.shape[2:] != (SIDE, SIDE):
        images = interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
    return (images.clamp(0, 1) - 0.5) * 4


def build(backbone: Backbone) -> nn.Module:
    """A fresh backbone, ``(N, 3, 32, 32)`` to ``(N, 128)`` (``twin``: 256, ResNets: 512).

    Weights come from torch's global generator: the caller seeds it.
    """
    return _BUILDERS[backbone]()


@torch.no_grad()
def features(network: nn.Module, images: Tensor) -> Tensor:
    """Feature vectors ``(N, F)`` of any images, see `prepare`; the network must be in eval mode.

    The mean over the image's views, see `views`: a mirror image is the same leak.
    """
    if network.training:
        raise ValueError("SemSim's network must be in eval mode: batch statistics would mix the images")
    found = []
    for part in torch.split(images, BATCH):
        ready = prepare(part)
        filled = torch.cat([ready, ready[:1].expand(BATCH - len(ready), -1, -1, -1)])
        several = views(filled).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        seen = network(several).float()
        found.append(seen.unflatten(0, (-1, BATCH)).mean(0)[: len(ready)])
    return torch.cat(found)


def views(ready: Tensor) -> Tensor:
    """What features are averaged over: the image and its mirror image.

    Further views (of even contrast, moved, in inverted colours) cost five times as much; on held-out answers
    and real reconstructions they added 0.005 of Spearman at most to a head on the trunk of `lite`.

    Args:
        ready: from `prepare`, ``(N, 3, 32, 32)``.

    Returns:
        ``(2, N, 3, 32, 32)``.
    """
    return torch.stack([ready, ready.flip(3)])


def distance(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """SemSim of each pair, ``(N,)``: L2 distance of the features; 0 for identical images, lower is closer.

    Sun et al., "Privacy Assessment on Reconstructed Images", NeurIPS 2023, https://arxiv.org/abs/2309.13038,
    section 4.

    Args:
        network: a backbone in eval mode, on the images' device.
        x: images, see `prepare`.
        y: as many images; they may differ in size and colour from ``x``.
    """
    if len(x) != len(y):
        raise ValueError(f"expected as many images on both sides, got {len(x)} and {len(y)}")
    if not len(x):
        return torch.empty(0, device=x.device)
    distances: Tensor = (features(network, x) - features(network, y)).norm(dim=1)
    return distances


class _Block(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut (He et al., CVPR 2016)."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)
        same = stride == 1 and before == width
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        )

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(self.second_norm(self.second(inner)) + self.shortcut(x))


class _Narrow(nn.Module):
    """A residual network of 32 to 256 channels, 1.8 M parameters; the stem halves the image.

    Its features come from the last three resolutions, each in its four quarters: a mean over the whole frame
    would not know where anything is.
    """

    def __init__(self) -> None:
        super().__init__()
        width, blocks = 32, (1, 2, 2, 1)
        self.stem = nn.Sequential(nn.Conv2d(3, width, 5, 2, 2, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.stages = nn.ModuleList(nn.Sequential(*stage) for stage in _stages(width, blocks))
        widest = width * 2 ** (len(blocks) - 1)
        self.head = nn.Linear(4 * (widest + widest // 2 + widest // 4), FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        found: Tensor = self.head(torch.cat([adaptive_avg_pool2d(m, 2).flatten(1) for m in maps[:0:-1]], 1))
        return found


def _resnet18() -> nn.Module:
    """ResNet-18 with the stem for small images and without its classifier, as in the paper: 512 features."""
    return _residual((2, 2, 2, 2))


def _resnet34() -> nn.Module:
    """ResNet-34, as `_resnet18`, 21.3 M parameters: over the size that is packaged, for comparison."""
    return _residual((3, 4, 6, 3))


def _residual(blocks: tuple[int, ...], width: int = 64) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    for stage in _stages(width, blocks):
        layers += stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _stages(width: int, blocks: tuple[int, ...]) -> Iterator[list[_Block]]:
    """The blocks of each resolution: every one after the first halves the image and doubles the width."""
    before = width
    for stage, count in enumerate(blocks):
        after = width * 2**stage
        yield [
            _Block(after if block else before, after, 2 if stage and not block else 1)
            for block in range(count)
        ]
        before = after


def _lenet() -> nn.Module:
    """Three 5x5 convolutions with batch norm, one linear layer (after LeCun et al. 1998, wider)."""
    layers: list[nn.Module] = []
    before = 3
    for width in (32, 64, 64):
        layers += [nn.Conv2d(before, width, 5, 2, 2), nn.BatchNorm2d(width), nn.ReLU()]
        before = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * 16, FEATURES))


_BUILDERS: dict[Backbone, Callable[[], nn.Module]] = {
    "lenet": _lenet,
    "lite": Lite,
    "narrow": _Narrow,
    "resnet18": _resnet18,
    "resnet34": _resnet34,
    "twin": lambda: Lite(2),
}
