"""Top-k sparsification with error feedback: what is held back is sent in a later round."""

import math
from functools import partial
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from fl_audit.core.units import Arrays, Defense, State
from fl_audit.strategies.defenses._registry import defenses
from fl_audit.strategies.defenses._updates import (
    keep_largest,
    map_flat,
    must_be_finite,
    update_of,
    with_update,
)


@defenses.register("topk")
class TopK(Defense):
    """Send the largest entries of what has built up, hold the rest back for later rounds.

    Deep gradient compression of Lin et al., "Deep Gradient Compression: Reducing the Communication Bandwidth
    for Distributed Training", ICLR 2018 (https://arxiv.org/abs/1712.01887), sections 3.2 and 3.3::

        u <- momentum * u + update        (velocity: momentum correction)
        v <- v + u                        (local accumulation)
        send the largest entries of |v|; set them to 0 in v and in u (momentum factor masking)

    Without momentum this is error feedback, as in Stich, Cordonnier and Jaggi, "Sparsified SGD with Memory",
    NeurIPS 2018. `prune` is the same without memory. What an attacker sees differs: an update holds parts of
    the client's earlier rounds and lacks parts of this one, so it is no gradient of this round's images at
    the model sent; but nothing is lost for good, and over the rounds the server gets all of it.

    Velocity and accumulation are the client's and live as long as the federation; an interrupted federation
    starts again. Where we differ from the paper: updates stand for gradients, clients keep their memory also
    over rounds in which they are not sampled, and there is neither its warm-up (a fraction that shrinks over
    the first epochs) nor its gradient clipping, which is `clip` before it: ``clip:1+topk:0.01``. Integer
    arrays leave as they are.
    """

    paper: ClassVar[str] = (
        "Lin et al., Deep Gradient Compression, ICLR 2018, https://arxiv.org/abs/1712.01887"
    )

    fraction: float = Field(
        gt=0, le=1, description="share of the entries that leaves; the paper goes down to 0.001"
    )
    momentum: float = Field(
        default=0.0, ge=0, lt=1, description="of the velocity that is accumulated; the paper has 0.9"
    )
    per: Literal["layer", "global"] = Field(
        default="layer", description="rank the entries of each array apart, or of all arrays together"
    )

    def apply(
        self, sent: Arrays, received: Arrays, *, rng: np.random.Generator, state: State
    ) -> dict[str, np.ndarray]:
        """``sent`` plus the largest entries. Raises ValueError for an update that is not finite."""
        del rng
        update = update_of(sent, received)
        must_be_finite(update)
        velocity = {name: self.momentum * state.get(f"u/{name}", 0.0) + x for name, x in update.items()}
        built_up = {name: state.get(f"v/{name}", 0.0) + u for name, u in velocity.items()}
        largest = partial(_largest, fraction=self.fraction)
        if self.per == "global":
            chosen = map_flat(built_up, largest)
        else:
            chosen = {name: largest(v) for name, v in built_up.items()}
        for name, values in chosen.items():
            if self.momentum:
                state[f"u/{name}"] = np.where(values != 0, 0.0, velocity[name])
            state[f"v/{name}"] = np.where(values != 0, 0.0, built_up[name])
        return with_update(sent, received, chosen)


def _largest(values: np.ndarray, fraction: float) -> np.ndarray:
    """A copy with all but the ``ceil(fraction * size)`` entries of largest magnitude set to 0."""
    return keep_largest(values, math.ceil(fraction * values.size))
