"""Local differential privacy: the client clips and noises its update, since the server is the adversary."""

from typing import ClassVar

import numpy as np
from pydantic import Field

from fl_audit.core.units import Arrays, Defense, PrivacySpent, State
from fl_audit.strategies.defenses._accounting import gaussian_epsilon
from fl_audit.strategies.defenses._registry import defenses
from fl_audit.strategies.defenses._updates import (
    add_gaussian,
    clip,
    integers_as_sent,
    update_of,
    with_update,
)


@defenses.register("dp")
class LocalDP(Defense):
    """Local differential privacy: clip the update, add Gaussian noise, account for every round.

    The Gaussian mechanism on the client (Dwork and Roth, "The Algorithmic Foundations of Differential
    Privacy", 2014, appendix A) with the flat clipping of arXiv:1710.06963.

    What is protected: everything that one client's update says, against the server that receives it (local
    model). Two data sets are neighbours when they are *any* two data sets of that client (replacement). Two
    clipped updates are then up to ``2 * clipping_norm`` apart, one at each end of a diameter: that is the
    sensitivity. With noise of standard deviation ``noise_multiplier * clipping_norm`` a round is a Gaussian
    mechanism whose noise-to-sensitivity ratio is ``noise_multiplier / 2``. The guarantee of a client that
    takes part in T rounds composes T of these (each may depend on the ones before), with no amplification:
    the server knows who took part. Epsilon does not depend on the clipping norm. At delta 1e-5 the default
    multiplier gives epsilon 0.73 for 1 round, 2.6 for 10 and 5.8 for 40; a multiplier of 1 gives 10, 46 and
    133. A guarantee against the server itself costs utility: no other client's noise is counted on, so a
    federation of a few clients learns little or nothing under it.

    Every array is covered: integer arrays, e.g. a batch-norm counter, leave as they were sent. Metrics that
    a client sends beside its arrays (``num-examples``, a loss) travel in clear and are *not* covered. An
    update that is not finite raises instead of leaving. The noise comes from a seeded generator in floating
    point, which is right for an audit that must be repeatable and not for a deployment.

    Where we differ from Flower 1.41's ``LocalDpMod``: 0-d parameters are clipped and noised, a zero update is
    noised, integer arrays do not raise, the noise generator is not the global one, epsilon is accounted over
    rounds and valid above 1 (the classical formula that Flower uses is not), and the sensitivity is derived
    from the clipping norm instead of being a second parameter that can contradict it.
    """

    paper: ClassVar[str] = "Dwork and Roth, The Algorithmic Foundations of Differential Privacy, 2014"

    noise_multiplier: float = Field(
        default=10.0, gt=0, description="standard deviation of the noise over the clipping norm"
    )
    clipping_norm: float = Field(
        default=0.02, gt=0, description="largest L2 norm of the update, all arrays together"
    )

    def apply(
        self, sent: Arrays, received: Arrays, *, rng: np.random.Generator, state: State
    ) -> dict[str, np.ndarray]:
        """``sent`` plus the clipped and noised update. Raises ValueError for an update that is not finite."""
        del state
        clipped = clip(update_of(sent, received), self.clipping_norm)
        noised = add_gaussian(clipped, self.noise_multiplier * self.clipping_norm, rng)
        return with_update(sent, integers_as_sent(sent, received), noised)

    def privacy(self, *, rounds: int, delta: float) -> PrivacySpent:
        """Epsilon at ``delta`` of a client that took part in ``rounds`` rounds, whatever the others did."""
        return PrivacySpent(
            epsilon=gaussian_epsilon(self.noise_multiplier / 2, rounds, delta),
            delta=delta,
            unit="one client's whole data in all its rounds, by its arrays, against the server (replacement, "
            "local model)",
            accountant="dp-accounting PLD, Gaussian, sensitivity 2 x clipping norm, no amplification",
        )
