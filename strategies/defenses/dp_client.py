"""Central differential privacy with clipping at the clients: what leaves is clipped and not noised."""

from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from fl_audit.core.units import ActsOn, Arrays, Defense, PrivacySpent, State
from fl_audit.strategies.defenses._accounting import gaussian_epsilon
from fl_audit.strategies.defenses._registry import defenses
from fl_audit.strategies.defenses._updates import clip, integers_as_sent, update_of, with_update


@defenses.register("dp-client")
class ClientSideDP(Defense):
    """Central differential privacy, clients clip, and the server adds noise after it saw each update.

    Flower's ``DifferentialPrivacyClientSideFixedClipping`` around the strategy of the run, and on every
    client what its ``fixedclipping_mod`` does: the update is scaled down to ``clipping_norm``, as in `clip`,
    and the server adds Gaussian noise to the mean. The server gets each clipped update without noise, and
    clipping keeps its direction, which attacks read. With secure aggregation, ``dp-client+secagg``, the
    server gets only the mean of the clipped updates; it still gets it before the noise.

    Guarantee, accounting, what it goes with and how Flower's class is used are as in `dp-server`; besides,
    clients are trusted to clip. On the client we differ from Flower 1.41's mod, which leaves 0-d parameters
    unclipped, divides by zero for a zero update, raises on integer arrays of one dimension and more and
    counts integer counters in the norm: here all parameters are clipped, and integer arrays leave as they
    were sent. An update that is not finite raises instead of leaving.
    """

    acts_on: ClassVar[ActsOn] = "server"
    server_sees: ClassVar[str] = (
        "The server gets every client's clipped update without noise, which it adds to their mean: against "
        "the server this is clipping alone."
    )
    paper: ClassVar[str] = (
        "McMahan et al., Learning Differentially Private Recurrent Language Models, ICLR 2018, "
        "https://arxiv.org/abs/1710.06963"
    )

    noise_multiplier: float = Field(
        default=10.0,
        gt=0,
        description="standard deviation of the noise on the sum of the updates over the clipping norm",
    )
    clipping_norm: float = Field(
        default=0.02, gt=0, description="largest L2 norm of a client's update, all arrays together"
    )

    def apply(
        self, sent: Arrays, received: Arrays, *, rng: np.random.Generator, state: State
    ) -> dict[str, np.ndarray]:
        """``sent`` plus the clipped update. Raises ValueError for an update that is not finite."""
        del rng, state
        clipped = clip(update_of(sent, received), self.clipping_norm)
        return with_update(sent, integers_as_sent(sent, received), clipped)

    @property
    def changes_update(self) -> bool:
        """It does: clients clip."""
        return True

    def wrap_strategy(self, strategy: Any, *, clients: int, sampled: int) -> Any:
        """Flower's wrapper around ``strategy``; a ConfigError where its noise is not for that strategy."""
        del clients
        from fl_audit.strategies.central import central_dp  # needs Flower

        return central_dp(
            strategy,
            clips="client",
            noise_multiplier=self.noise_multiplier,
            clipping_norm=self.clipping_norm,
            sampled=sampled,
            who=self.name,
        )

    @property
    def equal_weights(self) -> bool:
        """They do: a client's weight must not depend on what it claims."""
        return True

    def privacy(self, *, rounds: int, delta: float) -> PrivacySpent:
        """Epsilon at ``delta`` of the models released, for a client that took part in ``rounds`` rounds."""
        return PrivacySpent(
            epsilon=gaussian_epsilon(self.noise_multiplier / 2, rounds, delta),
            delta=delta,
            unit="one client's whole data in all its rounds, by the models released, against whoever sees "
            "these and NOT against the server (replacement, central model)",
            accountant="dp-accounting PLD, Gaussian, sensitivity 2 x clipping norm / clients in a round, no "
            "amplification",
            against_server=False,
        )
