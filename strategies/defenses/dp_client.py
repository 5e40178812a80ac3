"""Central differential privacy with clipping at the clients: what leaves is clipped and not noised."""

from typing import ClassVar

import numpy as np

from fl_audit.core.units import Arrays, State
from fl_audit.strategies.defenses._central import CentralDP
from fl_audit.strategies.defenses._registry import defenses
from fl_audit.strategies.defenses._updates import clip, integers_as_sent, update_of, with_update


@defenses.register("dp-client")
class ClientSideDP(CentralDP):
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

    clips = "client"
    server_sees: ClassVar[str] = (
        "The server gets every client's clipped update without noise, which it adds to their mean: against "
        "the server this is clipping alone."
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
