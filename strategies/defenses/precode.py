"""PRECODE: a variational bottleneck in the model, whose random draws the attacker does not know."""

import torch
from pydantic import Field
from torch import Tensor, nn

from fl_audit.core.training import Batch, Learner
from fl_audit.core.units import Defense
from fl_audit.strategies.defenses._bottleneck import VariationalBottleneck
from fl_audit.strategies.defenses._layers import last_linear
from fl_audit.strategies.defenses._registry import defenses


@defenses.register("precode")
class Precode(Defense):
    """Put a variational bottleneck before the classifier, so that gradients depend on secret random draws.

    Scheliga, Mäder and Seeland, "PRECODE - A Generic Model Extension to Prevent Deep Gradient Leakage", WACV
    2022 (https://arxiv.org/abs/2108.04725), section 3, with the code size, beta and layers of its code: the
    features that enter the last linear layer are encoded as mean and deviation (softplus) of a Gaussian, a
    draw from it is decoded, and the divergence from the standard normal is added to the loss, in bits.
    Everybody uses the larger architecture. No guarantee.

    The draws are the client's own, new in every step; evaluation uses the mean. An attacker knows the
    architecture, not the draws: our attacks put the mean in their place, and simulate the loss without the
    divergence, a thousandth of which hardly shows beside the draws. That is the stronger attack of two: the
    paper's lets the attacker draw afresh in every iteration and finds that it does not converge. Gradients of
    the bottleneck and of what follows it are noisy, while those of layers before it can still be matched: the
    authors' own later attack, "Combining Variational Modeling with Partial Gradient Perturbation"
    (https://arxiv.org/abs/2208.04767), ignores the noisy ones and recovers images. Exact attacks on an early
    linear layer do not care for the bottleneck at all.
    """

    acts_on = "training"
    paper = "Scheliga et al., PRECODE - A Generic Model Extension to Prevent Deep Gradient Leakage, WACV 2022"

    size: int = Field(default=256, ge=1, le=65536, description="length of the bottleneck's code")
    beta: float = Field(
        default=1e-3, ge=0, le=1e3, description="weight of the divergence (bits per image) in the loss"
    )

    def architecture(self, model: nn.Module) -> nn.Module:
        """The bottleneck before the last linear layer. Raises ConfigError where there is none."""
        name, layer = last_linear(model, self.name)
        bottleneck = VariationalBottleneck(layer.in_features, size=self.size)
        extended = nn.Sequential(bottleneck, layer)
        if not name:
            return extended
        parent, _, child = name.rpartition(".")
        model.get_submodule(parent)._modules[child] = extended
        return model

    def begin(self, learner: Learner, *, rng: torch.Generator) -> Learner:
        """Give the bottlenecks the client's generator: from now on they draw."""
        for module in _bottlenecks(learner.model):
            module.generator = rng
        return learner

    def objective(self, loss: Tensor, learner: Learner, batch: Batch) -> Tensor:
        """The loss plus ``beta`` times the divergence."""
        del batch
        for module in _bottlenecks(learner.model):
            if module.divergence is not None:
                loss = loss + self.beta * module.divergence
                module.divergence = None
        return loss


def _bottlenecks(model: nn.Module) -> list[VariationalBottleneck]:
    return [module for module in model.modules() if isinstance(module, VariationalBottleneck)]
