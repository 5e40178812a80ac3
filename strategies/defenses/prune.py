"""Gradient magnitude pruning: only the largest changes leave."""

from functools import partial
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from fl_audit.core.units import Arrays, Defense, State
from fl_audit.strategies.defenses._registry import defenses
from fl_audit.strategies.defenses._updates import map_flat, prune_smallest, update_of


@defenses.register("prune")
class Prune(Defense):
    """Zero the smallest entries of the update; the rest leave exactly.

    Gradient compression as in Zhu, Liu and Han, "Deep Leakage from Gradients", NeurIPS 2019
    (https://arxiv.org/abs/1906.08935), section 5.2, after Lin et al., "Deep Gradient Compression", ICLR 2018
    (https://arxiv.org/abs/1712.01887). As there, the share is taken of every array apart (``per=layer``);
    ``per=global`` ranks the entries of all arrays together. Unlike there, what is pruned is dropped: it is
    not accumulated for a later round.
    """

    paper: ClassVar[str] = (
        "Zhu et al., Deep Leakage from Gradients, NeurIPS 2019, https://arxiv.org/abs/1906.08935"
    )

    fraction: float = Field(ge=0, lt=1, description="share of the entries that is set to zero")
    per: Literal["layer", "global"] = Field(
        default="layer", description="rank the entries of each array apart, or of all arrays together"
    )

    def apply(
        self, sent: Arrays, received: Arrays, *, rng: np.random.Generator, state: State
    ) -> dict[str, np.ndarray]:
        """``sent`` plus the pruned update: a pruned entry leaves as it was sent."""
        del rng, state
        update = update_of(sent, received)
        prune = partial(prune_smallest, fraction=self.fraction)
        kept = map_flat(update, prune) if self.per == "global" else {k: prune(v) for k, v in update.items()}
        # What is not pruned leaves as it was trained: sent + (received - sent) could round.
        return {
            name: np.where(kept[name] == 0, np.asarray(sent[name], array.dtype), array)
            if name in kept
            else array.copy()
            for name, array in received.items()
        }
