"""Central differential privacy with clipping at the server: it protects from others, not from the server."""

from typing import ClassVar

from fl_audit.strategies.defenses._central import CentralDP
from fl_audit.strategies.defenses._registry import defenses


@defenses.register("dp-server")
class ServerSideDP(CentralDP):
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

    clips = "server"
    server_sees: ClassVar[str] = (
        "The server gets every client's update in clear, before it clips them and adds noise: against the "
        "server this is no defense."
    )

    @property
    def sees_each(self) -> bool:
        """It clips each client's update."""
        return True
