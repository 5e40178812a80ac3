"""No defense: the baseline that every other is compared with."""

import numpy as np

from fl_audit.core.units import Arrays, Defense
from fl_audit.strategies.defenses._registry import defenses


@defenses.register("none")
class NoDefense(Defense):
    """No defense: the update leaves as it is."""

    def apply(self, sent: Arrays, received: Arrays, *, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """``received`` itself, even where it is malformed: that is for the auditor to find."""
        del sent, rng
        return dict(received)
