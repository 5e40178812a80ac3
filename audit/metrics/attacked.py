"""What the attacked model makes of a reconstruction: its features and its class."""

import torch
from torch import Tensor, nn

from fl_audit.metrics._base import ContextMetric
from fl_audit.metrics._context import Context
from fl_audit.metrics._features import BATCH, last_linear, penultimate
from fl_audit.metrics._registry import metrics

MOST_KNOWN = 64
"""Images of each kind that tell whether a model predicts one class for everything."""

NO_LINEAR = "the attacked model has no linear layer to read features at"


def feature_distance(x: Tensor, y: Tensor) -> Tensor:
    """Relative L2 distance of features, ``|x - y| / |x|``, float64 ``(N,)``; NaN where ``x`` is zero.

    Args:
        x: features of the originals, ``(N, D)``.
        y: features of the reconstructions, the same shape.
    """
    x, y = x.double(), y.double()
    size = x.norm(dim=1)
    return torch.where(size > 0, (x - y).norm(dim=1) / size, torch.nan)


@metrics.register("feature-distance")
class FeatureDistance(ContextMetric):
    """Distance of the attacked model's last features, relative to the original's.

    What the classifier itself sees of the image: 0 is the same, 1 is as far off as no image at all. The
    perceptual loss of Johnson, Alahi and Fei-Fei (ECCV 2016, https://arxiv.org/abs/1603.08155, section 3.2)
    with the attacked model in place of VGG, the layer before the logits, and relative, so that rounds and
    models compare.
    """

    better = "lower"
    range = (0.0, float("inf"))
    wants = frozenset({"model"})
    label = "Feature distance"
    brief = False
    undefined = "the attacked model's features of the original are all zero"

    def _score_in(self, originals: Tensor, reconstructions: Tensor, context: Context) -> Tensor:
        model = _model(context)
        return feature_distance(penultimate(model, originals), penultimate(model, reconstructions))

    def _unfit_in(self, originals: Tensor, context: Context) -> str | None:
        del originals
        return None if last_linear(_model(context)) else NO_LINEAR


@metrics.register("classifier-agreement")
class ClassifierAgreement(ContextMetric):
    """Whether the attacked model predicts the same class for original and reconstruction: 1 or 0.

    Unmeasured while the model predicts one class for everything that is known of the data, as before
    training: it would agree on any image.
    """

    better = "higher"
    range = (0.0, 1.0)
    wants = frozenset({"model"})
    uses = frozenset({"client", "others"})
    label = "Same class"
    brief = False

    def _score_in(self, originals: Tensor, reconstructions: Tensor, context: Context) -> Tensor:
        model = _model(context)
        return (_classes(model, originals) == _classes(model, reconstructions)).double()

    def _unfit_in(self, originals: Tensor, context: Context) -> str | None:
        sources = (originals, context.client, context.others)
        known = [images[:MOST_KNOWN] for images in sources if images is not None]
        classes = {
            name for images in known if len(images) for name in _classes(_model(context), images).tolist()
        }
        if len(classes) < 2:
            return "the attacked model predicts one class for every known image, so agreement says nothing"
        return None


def _model(context: Context) -> nn.Module:
    if context.model is None:
        raise ValueError("expected the attacked model in the context")
    return context.model


def _classes(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(batch).argmax(1) for batch in torch.split(images, BATCH)])
