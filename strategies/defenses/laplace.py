"""Laplace noise: a guarantee where the update is clipped in L1, else just noise."""

from typing import ClassVar

import numpy as np
from pydantic import Field

from fl_audit.core.units import Arrays, Defense, PrivacySpent, State
from fl_audit.strategies.defenses._accounting import laplace_epsilon
from fl_audit.strategies.defenses._registry import defenses
from fl_audit.strategies.defenses._updates import (
    add_laplace,
    clip,
    integers_as_sent,
    l1_norm,
    update_of,
    with_update,
)


@defenses.register("laplace")
class Laplace(Defense):
    """Laplace noise on the update; differential privacy if it is clipped in L1 before, else none.

    The Laplace mechanism of Dwork, McSherry, Nissim and Smith, "Calibrating Noise to Sensitivity in Private
    Data Analysis", TCC 2006, on the client. Without ``clipping_norm`` it is the Laplacian noise of Zhu, Liu
    and Han, "Deep Leakage from Gradients", NeurIPS 2019 (https://arxiv.org/abs/1906.08935), section 5.1,
    there on gradients: nothing bounds the update, so there is no guarantee.

    With ``clipping_norm`` the update is scaled down to that L1 norm. What is protected, and against whom, is
    what `dp` protects: two clipped updates of one client (any two data sets of it, replacement) are up to
    ``2 * clipping_norm`` apart in L1, so a round is a Laplace mechanism whose scale over sensitivity is
    ``scale / (2 * clipping_norm)``: epsilon ``2 * clipping_norm / scale`` at any delta, and the rounds of a
    client compose without amplification. The L1 norm of an update grows with the number of its entries where
    its L2 norm grows with the root of it, so for a large model `dp` costs less at the same epsilon.

    As in `dp`, integer arrays then leave as they were sent, metrics in clear are not covered, and an update
    that is not finite raises instead of leaving.
    """

    paper: ClassVar[str] = "Dwork et al., Calibrating Noise to Sensitivity in Private Data Analysis, TCC 2006"

    scale: float = Field(
        gt=0, description="scale b of the noise, in units of the weights; its standard deviation is 1.41 b"
    )
    clipping_norm: float | None = Field(
        default=None,
        gt=0,
        description="largest L1 norm of the update, all arrays together; unset: no clipping, no guarantee",
    )

    def apply(
        self, sent: Arrays, received: Arrays, *, rng: np.random.Generator, state: State
    ) -> dict[str, np.ndarray]:
        """``sent`` plus the noised update, clipped before if there is a norm."""
        del state
        update = update_of(sent, received)
        if self.clipping_norm is None:
            return with_update(sent, received, add_laplace(update, self.scale, rng))
        noised = add_laplace(clip(update, self.clipping_norm, l1_norm), self.scale, rng)
        return with_update(sent, integers_as_sent(sent, received), noised)

    def privacy(self, *, rounds: int, delta: float) -> PrivacySpent | None:
        """Epsilon at ``delta`` of a client that took part in ``rounds`` rounds; None without clipping."""
        if self.clipping_norm is None:
            return None
        return PrivacySpent(
            epsilon=laplace_epsilon(self.scale / (2 * self.clipping_norm), rounds, delta),
            delta=delta,
            unit="one client's whole data in all its rounds, by its arrays, against the server (replacement, "
            "local model)",
            accountant="dp-accounting PLD, Laplace, L1 sensitivity 2 x clipping norm, no amplification",
        )
