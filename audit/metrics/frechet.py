"""Fréchet inception distance: how far two sets of images are apart, not which image leaked."""

import functools
import math
from abc import abstractmethod

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import interpolate

from fl_audit.metrics._base import Metric
from fl_audit.metrics._registry import metrics
from fl_audit.metrics._weights import load_weights, problem, weight_files
from fl_audit.metrics.semantic import packaged_problem
from fl_audit.semsim import features, packaged

_SIZE = 299
_BATCH = 32
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


def frechet_distance(x: Tensor, y: Tensor) -> Tensor:
    """Squared Fréchet distance of the normal distributions fitted to two sets of features.

    Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium",
    NeurIPS 2017, https://arxiv.org/abs/1706.08500, equation 6. The trace of the root of the product of the
    covariances A'A and B'B is the sum of the singular values of AB', which is exact and needs no root of a
    singular matrix where there are fewer images than features.

    Args:
        x: features ``(N, D)``, N at least 2.
        y: features ``(M, D)``, M at least 2.

    Returns:
        float64, 0-d, not negative.
    """
    x, y = x.double(), y.double()
    a = (x - x.mean(0)) / math.sqrt(len(x) - 1)
    b = (y - y.mean(0)) / math.sqrt(len(y) - 1)
    cross: Tensor = torch.linalg.svdvals(a @ b.T).sum()
    spread = (a.square().sum() + b.square().sum() - 2 * cross).clamp(min=0)
    return (x.mean(0) - y.mean(0)).square().sum() + spread


class FrechetMetric(Metric):
    """Fréchet distance of two sets of images in the features of some network; one value for the set.

    Authors write `_features`. With few images the distance is biased upwards, so that with fewer than
    ``min_images`` it is not reported.
    """

    better = "lower"
    range = (0.0, float("inf"))
    per_image = False
    brief = False
    default = False

    min_images: int = Field(50, ge=2, description="with fewer images the distance is not reported")

    @abstractmethod
    def _features(self, images: Tensor) -> Tensor:
        """Features ``(N, D)`` of images ``(N, C, H, W)`` in [0, 1]."""

    def _unfit(self, originals: Tensor) -> str | None:
        if len(originals) < self.min_images:
            return f"{len(originals)} images are too few for a Fréchet distance: at least {self.min_images}"
        return None

    def _score(self, originals: Tensor, reconstructions: Tensor) -> Tensor:
        return frechet_distance(self._features(originals), self._features(reconstructions))[None]


@metrics.register("fid")
class Fid(FrechetMetric):
    """Fréchet distance of two sets in torchvision's Inception v3 features; one value for the set.

    Differs from the literature's FID in the network (torchvision's ImageNet weights, not TensorFlow's of
    2015), so values compare within fl-audit only; and with few images it is biased upwards.
    """

    needs = "ImageNet weights of Inception v3 (fl-audit doctor --download)"

    def unavailable(self) -> str | None:
        """Says so where the weights are missing; nothing is ever downloaded here."""
        return problem("inception")

    def _features(self, images: Tensor) -> Tensor:
        network = _network(weight_files()["inception"].path.stat().st_mtime_ns).to(images.device)
        return _pooled(images, network)


@metrics.register("frechet-semsim")
class FrechetSemSim(FrechetMetric):
    """Fréchet distance of two sets in SemSim's features, measured offline; not FID, whose network is another.

    `frechet_distance` with the features of the packaged SemSim weights in place of Inception's.
    """

    needs = "SemSim weights (packaged)"
    label = "Fréchet (SemSim)"

    def unavailable(self) -> str | None:
        """Says so where the packaged weights are missing or damaged."""
        return packaged_problem()

    def _features(self, images: Tensor) -> Tensor:
        return features(packaged().network.to(images.device), images)


def _pooled(images: Tensor, network: nn.Module) -> Tensor:
    mean = torch.tensor(_MEAN, device=images.device)[:, None, None]
    std = torch.tensor(_STD, device=images.device)[:, None, None]
    rows = []
    for batch in torch.split(images, _BATCH):
        large = interpolate(batch, (_SIZE, _SIZE), mode="bilinear", align_corners=False, antialias=True)
        rows.append(network((large.expand(-1, 3, -1, -1) - mean) / std))
    return torch.cat(rows)


@functools.lru_cache(maxsize=1)
def _network(stamp: int) -> nn.Module:
    """Inception v3 up to its pooled features; ``stamp``, the time of its weights, keys the cache."""
    del stamp
    from torchvision.models import inception_v3

    # Its initial weights come from scipy and would draw from the global generator: they are not wanted.
    network: nn.Module = inception_v3(weights=None, init_weights=False, transform_input=False)
    network.load_state_dict(load_weights("inception"))
    network.fc = nn.Identity()
    return network.eval().requires_grad_(False)
