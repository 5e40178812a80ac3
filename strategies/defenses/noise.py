"""Gaussian noise without clipping: a defense in use, and no guarantee."""

from typing import ClassVar

import numpy as np
from pydantic import Field

from fl_audit.core.units import Arrays, Defense, State
from fl_audit.strategies.defenses._registry import defenses
from fl_audit.strategies.defenses._updates import add_gaussian, update_of, with_update


@defenses.register("noise")
class Noise(Defense):
    """Gaussian noise of a fixed size on the update; no differential privacy, for nothing bounds the update.

    The defense that Zhu, Liu and Han, "Deep Leakage from Gradients", NeurIPS 2019
    (https://arxiv.org/abs/1906.08935), section 5.1, call noisy gradients. They add it to gradients; here it
    is added to the update, which for one SGD step is minus the learning rate times the gradient.
    """

    paper: ClassVar[str] = (
        "Zhu et al., Deep Leakage from Gradients, NeurIPS 2019, https://arxiv.org/abs/1906.08935"
    )

    sigma: float = Field(gt=0, description="standard deviation of the noise, in units of the weights")

    def apply(
        self, sent: Arrays, received: Arrays, *, rng: np.random.Generator, state: State
    ) -> dict[str, np.ndarray]:
        """``received`` plus noise on its floating-point arrays."""
        del state
        return with_update(sent, received, add_gaussian(update_of(sent, received), self.sigma, rng))
