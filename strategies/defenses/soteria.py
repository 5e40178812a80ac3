"""Soteria: the gradient of one layer is pruned so that it tells a wrong representation of the image."""

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from fl_audit.core.errors import ConfigError
from fl_audit.core.training import Batch, Learner
from fl_audit.core.units import Defense
from fl_audit.strategies.defenses._layers import last_linear
from fl_audit.strategies.defenses._registry import defenses

_FEATURES_AT_ONCE = 32
_OFFSET = 0.1


@defenses.register("soteria")
class Soteria(Defense):
    """Prune the gradient of the last linear layer where its input tells most about the image.

    Sun, Li, Wang, Yang, Li and Chen, "Soteria: Provable Defense against Privacy Leakage in Federated Learning
    from Representation Perspective", CVPR 2021 (https://arxiv.org/abs/2012.06043), section 4, as its code
    does it. The representation r is what enters the defended layer, here the last linear one. Each of its
    features is scored by ``|| d r_i / d image || / (r_i + 0.1)``, summed over the batch, and the share
    ``fraction`` of the features with the lowest scores gets no gradient in that layer's weight: an attacker
    who reads r off it misses those. Gradients of the other layers leave as they are. No guarantee beyond the
    paper's bound for this one layer; Balunović et al., "Bayesian Framework for Gradient Leakage", ICLR 2022
    (https://arxiv.org/abs/2111.04706), section 5, recover images all the same by leaving the layer out.

    Differs in: the absolute value of r_i, where the code lets a negative one cancel; the number of pruned
    features is exact. Each step costs one backward pass for each feature.
    """

    acts_on = "training"
    paper = "Sun et al., Soteria: Provable Defense against Privacy Leakage in Federated Learning, CVPR 2021"

    fraction: float = Field(
        default=0.6, ge=0, lt=1, description="share of the layer's input features that get no gradient"
    )

    def architecture(self, model: nn.Module) -> nn.Module:
        """The model as it is. Raises ConfigError where it has no linear layer."""
        last_linear(model, self.name)
        return model

    def gradients(
        self, gradients: Mapping[str, Tensor], learner: Learner, batch: Batch
    ) -> Mapping[str, Tensor]:
        """The same, with the columns of pruned features zero in the last linear layer's weight."""
        name, _ = last_linear(learner.model, self.name)
        weight = f"{name}.weight" if name else "weight"
        kept = kept_features(feature_scores(learner.model, name, batch.images), self.fraction)
        return {**gradients, weight: gradients[weight] * kept}


def kept_features(scores: Tensor, fraction: float) -> Tensor:
    """Float ``(F,)``: 0 for the ``floor(fraction * F)`` lowest scores, 1 for the others."""
    kept = torch.ones_like(scores)
    kept[torch.argsort(scores, stable=True)[: int(fraction * len(scores))]] = 0
    return kept


def feature_scores(model: nn.Module, layer: str, images: Tensor) -> Tensor:
    """How much each input feature of ``layer`` hangs on the images, relative to its size.

    Args:
        model: in the mode that it is trained in; left as it is, running statistics included.
        layer: name of a linear layer.
        images: float32 ``(N, C, H, W)`` in [0, 1].

    Returns:
        ``(F,)``, the sum over the images.

    Raises:
        ConfigError: what enters the layer is not ``(N, F)``.
    """
    pixels = images.detach().clone().requires_grad_()
    entered: list[Tensor] = []
    hook = model.get_submodule(layer).register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    state = {name: buffer.clone() for name, buffer in model.named_buffers()}
    devices = [images.device] if images.is_cuda else []
    try:
        with torch.enable_grad(), torch.random.fork_rng(devices=devices):
            functional_call(model, state, (pixels,))
    finally:
        hook.remove()
    features = entered[-1]
    if features.ndim != 2 or len(features) != len(images):
        raise ConfigError(
            f"defense 'soteria' expects a row of features for each image to enter layer {layer!r}, got shape "
            f"{tuple(features.shape)} for {len(images)} images. Choose another model"
        )
    norms = [_slopes(features, pixels, part) for part in torch.split(_rows(features), _FEATURES_AT_ONCE)]
    return (torch.cat(norms) / (features.detach().abs().T + _OFFSET)).sum(1)


def _rows(features: Tensor) -> Tensor:
    return torch.arange(features.shape[1], device=features.device)


def _slopes(features: Tensor, pixels: Tensor, chosen: Tensor) -> Tensor:
    """Norms of the derivatives of the ``chosen`` features with respect to their own image, ``(f, N)``."""
    one = torch.zeros(len(chosen), *features.shape, device=features.device, dtype=features.dtype)
    one[torch.arange(len(chosen), device=features.device), :, chosen] = 1
    (slopes,) = torch.autograd.grad(features, pixels, one, retain_graph=True, is_grads_batched=True)
    norms: Tensor = slopes.flatten(2).norm(dim=2)
    return norms
