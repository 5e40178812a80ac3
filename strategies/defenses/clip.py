"""Clipping alone: it bounds what a client can do to the model, not what the model's server can see."""

from typing import ClassVar

import numpy as np
from pydantic import Field

from fl_audit.core.units import Arrays, Defense, State
from fl_audit.strategies.defenses import _updates
from fl_audit.strategies.defenses._registry import defenses


@defenses.register("clip")
class Clip(Defense):
    """Scale the update down to an L2 norm; its direction, which attacks read, stays.

    Flat clipping of McMahan et al., "Learning Differentially Private Recurrent Language Models", ICLR 2018
    (https://arxiv.org/abs/1710.06963), section 2.2.
    """

    paper: ClassVar[str] = (
        "McMahan et al., Learning Differentially Private Recurrent Language Models, ICLR 2018, "
        "https://arxiv.org/abs/1710.06963"
    )

    norm: float = Field(gt=0, description="largest L2 norm of the update, all arrays together")

    def apply(
        self, sent: Arrays, received: Arrays, *, rng: np.random.Generator, state: State
    ) -> dict[str, np.ndarray]:
        """``sent`` plus the clipped update. Raises ValueError for an update that is not finite."""
        del rng, state
        clipped = _updates.clip(_updates.update_of(sent, received), self.norm)
        return _updates.with_update(sent, received, clipped)
