"""What the defenses of central differential privacy share: noise, accounting and Flower's class around it."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from fl_audit.core.units import ActsOn, Defense, PrivacySpent
from fl_audit.strategies.defenses._accounting import gaussian_epsilon


class CentralDP(Defense):
    """Fixed clipping by the clients or the server, and Gaussian noise on the mean that the server adds."""

    acts_on: ClassVar[ActsOn] = "server"
    clips: ClassVar[Literal["client", "server"]]
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
            clips=self.clips,
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
