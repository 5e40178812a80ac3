"""mixup: a client trains on weighted means of two of its images."""

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import one_hot

from fl_audit.core.training import Batch, Learner
from fl_audit.core.units import Defense
from fl_audit.strategies.defenses._registry import defenses


@defenses.register("mixup")
class Mixup(Defense):
    """Train on weighted means of two images, with labels mixed alike.

    Zhang, Cisse, Dauphin and Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", ICLR 2018
    (https://arxiv.org/abs/1710.09412), equation 1: ``x = l * a + (1 - l) * b``, and the labels likewise, with
    l from Beta(alpha, alpha). A regulariser that Huang et al., "Evaluating Gradient Inversion Attacks and
    Defenses", NeurIPS 2021 (https://arxiv.org/abs/2112.00059), section 4, measure as a defense; on its own a
    weak one, for what is recovered is a double exposure. No guarantee.

    Differs in: the partner b is any other image of the client, drawn for each image, so that batches of one
    are mixed too (the paper's code shuffles within the batch); each image has an l of its own; and l is the
    larger of the draw and its complement, which is the same mixture with a and b exchanged, so that a is the
    image that shows more. **The original that a reconstruction is graded against is a.** The partner shows at
    most half as strongly; it is not counted as an image of its own. Where labels are granted the attacker is
    told the class of a, not l and not the partner's.
    """

    acts_on = "training"
    paper = "Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018"

    alpha: float = Field(
        default=1.0,
        gt=0,
        le=100,
        description="both parameters of the Beta distribution; small: mostly one image, large: half and half",
    )

    def batch(self, batch: Batch, learner: Learner, *, rng: torch.Generator) -> Batch:
        """Each image mixed with another of the client's; labels become probabilities ``(N, K)``."""
        count = len(batch.images)
        rows = torch.randint(len(learner.images), (count,), generator=rng).to(batch.images.device)
        weights = beta(self.alpha, count, rng).to(batch.images)
        weights = torch.maximum(weights, 1 - weights)
        own = _probabilities(batch.labels, learner.num_classes)
        other = _probabilities(learner.labels[rows], learner.num_classes)
        mixed = torch.lerp(learner.images[rows], batch.images, weights[:, None, None, None])
        return replace(batch, images=mixed.clamp(0, 1), labels=torch.lerp(other, own, weights[:, None]))


def beta(alpha: float, count: int, rng: torch.Generator) -> Tensor:
    """``count`` draws from Beta(alpha, alpha), float32 in [0, 1], from one generator.

    A seed from ``rng`` starts numpy's own sampler: torch's takes no generator.
    """
    import numpy as np

    seed = int(torch.randint(2**62, (1,), generator=rng))
    return torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, count)).float()


def _probabilities(labels: Tensor, num_classes: int) -> Tensor:
    return labels if labels.is_floating_point() else one_hot(labels, num_classes).float()
