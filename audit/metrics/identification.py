"""Which original a reconstruction shows: is the right one the nearest among many?"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from fl_audit.metrics._base import ContextMetric
from fl_audit.metrics._context import Context
from fl_audit.metrics._features import last_linear, penultimate
from fl_audit.metrics._registry import metrics
from fl_audit.metrics.attacked import NO_LINEAR
from fl_audit.semsim import features, packaged

Space = Literal["pixels", "semsim", "features"]
SPACES = "pixels; semsim: SemSim's features; features: those of the attacked model, by cosine"


def rank_of_original(reconstructions: Tensor, originals: Tensor, candidates: Tensor) -> Tensor:
    """How many candidates come at least as close to each reconstruction as its own original, plus 1.

    Args:
        reconstructions: points ``(N, D)``.
        originals: their originals, ``(N, D)``.
        candidates: ``(M, D)``. Those equal to an original count as it and not as its rivals.

    Returns:
        int64 ``(N,)``; 1: the original is the nearest, and no other as near.
    """
    ranks, candidates = [], candidates.double()
    for guess, truth in zip(reconstructions.double(), originals.double(), strict=True):
        rivals = candidates[(candidates != truth).any(1)]
        near = (rivals - guess).square().sum(1) <= (truth - guess).square().sum()
        ranks.append(1 + int(near.sum()))
    return torch.tensor(ranks, dtype=torch.int64)


@metrics.register("identification")
class Identification(ContextMetric):
    """Whether the right original is the nearest, by pixels, among all of the client's: 1 or 0.

    Unmeasured where the client has no more originals than places count: any image would do.
    """

    better = "higher"
    range = (0.0, 1.0)
    wants = frozenset({"client"})
    uses = frozenset({"model"})
    label = "Identified"
    brief = False

    top: int = Field(1, ge=1, description="the right original may stand in any of so many first places")
    by: Space = Field("pixels", description=SPACES)

    def _score_in(self, originals: Tensor, reconstructions: Tensor, context: Context) -> Tensor:
        images = (reconstructions, originals, _client(context))
        ranks = rank_of_original(*(_points(part, context, self.by) for part in images))
        return (ranks <= self.top).double()

    def _unfit_in(self, originals: Tensor, context: Context) -> str | None:
        del originals
        return _no_points(context, self.by) or _too_few(_client(context), self.top, "the client")


@metrics.register("identification-top5")
class IdentificationTop5(Identification):
    """Whether the right original is among the five nearest, by pixels, of all of the client's: 1 or 0."""

    label = "Identified (top 5)"

    top: int = Field(5, ge=1, description="the right original may stand in any of so many first places")


@metrics.register("iip")
class ImageIdentifiability(ContextMetric):
    """Image identifiability: whether the original is the nearest of all known images, in features: 1 or 0.

    Yin, Mallya, Vahdat, Alvarez, Kautz and Molchanov, "See through Gradients: Image Batch Recovery via
    GradInversion", CVPR 2021, https://arxiv.org/abs/2104.07586: image identifiability precision (IIP) is its
    mean over reconstructions. Differs: the candidates are the client's originals and images that it does not
    hold, of every class and not of the original's alone, which makes it no easier; features are the attacked
    model's, by cosine, or pixels.
    """

    better = "higher"
    range = (0.0, 1.0)
    wants = frozenset({"client", "others"})
    uses = frozenset({"model"})
    label = "IIP"
    brief = False
    default = False

    by: Space = Field("features", description=SPACES)

    def _score_in(self, originals: Tensor, reconstructions: Tensor, context: Context) -> Tensor:
        images = (reconstructions, originals, _known(context))
        return (rank_of_original(*(_points(part, context, self.by) for part in images)) == 1).double()

    def _unfit_in(self, originals: Tensor, context: Context) -> str | None:
        del originals
        return _no_points(context, self.by) or _too_few(_known(context), 1, "the data")


def _points(images: Tensor, context: Context, by: Space) -> Tensor:
    """The images as points of a space."""
    if by == "semsim":
        return features(packaged().network.to(images.device), images)
    if by == "pixels" or context.model is None:
        return images.flatten(1)
    return normalize(penultimate(context.model, images), dim=1)


def _no_points(context: Context, by: Space) -> str | None:
    """Why images are no points of that space here, or None."""
    if by == "semsim":
        return metrics.create("semsim").unavailable()
    if by == "pixels":
        return None
    if context.model is None:
        return context.lacks(frozenset({"model"}))
    return None if last_linear(context.model) else NO_LINEAR


def _client(context: Context) -> Tensor:
    if context.client is None:
        raise ValueError("expected the client's originals in the context")
    return context.client


def _known(context: Context) -> Tensor:
    others = context.others
    return _client(context) if others is None else torch.cat([_client(context), others])


def _too_few(images: Tensor, places: int, whose: str) -> str | None:
    different = len(torch.unique(images.flatten(1), dim=0))
    if different > places:
        return None
    return (
        f"{whose} has {different} different known image{'s' * (different != 1)}, so any guess would be right"
    )
