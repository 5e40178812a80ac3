"""Central differential privacy with clipping at the server: it protects from others, not from the server."""

from typing import Any, ClassVar

from pydantic import Field

from fl_audit.core.units import ActsOn, Defense, PrivacySpent
from fl_audit.strategies.defenses._accounting import gaussian_epsilon
from fl_audit.strategies.defenses._registry import defenses


@defenses.register("dp-server")
class ServerSideDP(Defense):
    """Central differential privacy, clipping and noise at the server: the server itself sees through it.

    Flower's ``DifferentialPrivacyServerSideFixedClipping`` around the strategy of the run, after McMahan et
    al., "Learning Differentially Private Recurrent Language Models", ICLR 2018
    (https://arxiv.org/abs/1710.06963): the server clips each client's update and adds Gaussian noise of
    standard deviation ``noise_multiplier * clipping_norm / clients in a round`` to their mean. The updates
    come to it in clear, so an honest-but-curious server learns what it would learn without any defense. That
    is what the audit of it shows.

    What is protected: one client's whole data (any two data sets of it, replacement), against those who see
    the released models: other clients, and whoever uses the result. Two clipped updates are up to
    ``2 * clipping_norm`` apart, so a round is a Gaussian mechanism whose noise-to-sensitivity ratio is
    ``noise_multiplier / 2``; the rounds in which a client took part compose without amplification, for Flower
    draws a fixed number of clients, and who took part is no secret. Flower 1.41's own accountant is not
    used: it bounds by Renyi divergence, which is looser, and counts a client as present or absent (ratio
    ``noise_multiplier``), though the mean is taken over as many clients as there are.

    Flower's class is used as it is, with its defects kept away from it (`fl_audit.strategies.central`): 0-d
    and integer arrays, zero updates, and weights that clients claim. A round in which a client is missing
    releases nothing. The noise comes from numpy's global generator, which the server app seeds. It goes with
    strategies that take FedAvg's mean.
    """

    acts_on: ClassVar[ActsOn] = "server"
    server_sees: ClassVar[str] = (
        "The server gets every client's update in clear, before it clips them and adds noise: against the "
        "server this is no defense."
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

    def wrap_strategy(self, strategy: Any, *, clients: int, sampled: int) -> Any:
        """Flower's wrapper around ``strategy``; a ConfigError where its noise is not for that strategy."""
        del clients
        from fl_audit.strategies.central import central_dp  # needs Flower

        return central_dp(
            strategy,
            clips="server",
            noise_multiplier=self.noise_multiplier,
            clipping_norm=self.clipping_norm,
            sampled=sampled,
            who=self.name,
        )

    @property
    def equal_weights(self) -> bool:
        """They do: a client's weight must not depend on what it claims."""
        return True

    @property
    def sees_each(self) -> bool:
        """It clips each client's update."""
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
