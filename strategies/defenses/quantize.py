"""Quantisation: an update of a few bits an entry, down to the sign alone."""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from fl_audit.core.units import Arrays, Defense, State
from fl_audit.strategies.defenses._registry import defenses
from fl_audit.strategies.defenses._updates import must_be_finite, update_of, with_update


@defenses.register("quantize")
class Quantize(Defense):
    """Round every entry of the update to a few bits, at random up or down; one bit: sign and a scale.

    From two bits on: QSGD of Alistarh et al., "QSGD: Communication-Efficient SGD via Gradient Quantization
    and Encoding", NeurIPS 2017 (https://arxiv.org/abs/1610.02132), section 3.1: one bit of sign and
    ``2 ** (bits - 1) - 1`` levels of magnitude, in parts of the array's norm; an entry between two levels is
    rounded up with the probability that makes it right in the mean. The norm is the largest magnitude, as
    the paper does in its experiments, or the L2 norm of its theory, with which few entries of a large
    array stay above 0.

    One bit: signSGD of Bernstein et al., ICML 2018 (https://arxiv.org/abs/1802.04434), scaled by the mean
    magnitude of the array as in Karimireddy et al., "Error Feedback Fixes SignSGD", ICML 2019
    (https://arxiv.org/abs/1901.09847), algorithm 1. It is not right in the mean; ``error_feedback`` adds what
    was lost to the client's next update, as that paper does. A zero, which one bit cannot say, gets a sign
    at random.

    The values that leave are dequantised, since Flower sends plain arrays: what is audited is what the server
    can know, not the size of the message. The rounding is seeded. Integer arrays leave as they are.
    """

    paper: ClassVar[str] = (
        "Alistarh et al., QSGD, NeurIPS 2017, https://arxiv.org/abs/1610.02132; one bit: Bernstein et al., "
        "signSGD, ICML 2018, https://arxiv.org/abs/1802.04434"
    )

    bits: int = Field(
        default=8, ge=1, le=16, description="bits of an entry, its sign included; usual: 8, 4, 1"
    )
    norm: Literal["max", "l2"] = Field(
        default="max", description="what the levels are parts of, for each array apart; 1 bit: its mean"
    )
    error_feedback: bool = Field(
        default=False, description="whether what the rounding lost is added to the client's next update"
    )

    def apply(
        self, sent: Arrays, received: Arrays, *, rng: np.random.Generator, state: State
    ) -> dict[str, np.ndarray]:
        """``sent`` plus the rounded update. Raises ValueError for an update that is not finite."""
        update = update_of(sent, received)
        must_be_finite(update)
        if self.error_feedback:
            update = {name: array + state.get(f"e/{name}", 0.0) for name, array in update.items()}
        if self.bits == 1:
            rounded = {name: signs(array, rng) for name, array in update.items()}
        else:
            levels = 2 ** (self.bits - 1) - 1
            rounded = {name: levelled(array, levels, self.norm, rng) for name, array in update.items()}
        if self.error_feedback:
            for name, array in rounded.items():
                state[f"e/{name}"] = np.asarray(update[name] - array)
        return with_update(sent, received, rounded)


def levelled(
    values: np.ndarray, levels: int, norm: Literal["max", "l2"], rng: np.random.Generator
) -> np.ndarray:
    """``values`` rounded at random to multiples of ``norm / levels``, unbiased; QSGD's Q_s."""
    size = float(np.abs(values).max(initial=0.0) if norm == "max" else np.linalg.norm(values.reshape(-1)))
    if size == 0:
        return np.zeros_like(values)
    exact = np.abs(values) * (levels / size)
    below = np.floor(exact)
    level = below + (rng.random(values.shape) < exact - below)
    return np.asarray(np.sign(values) * level * (size / levels))


def signs(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The sign of each entry times the mean magnitude; zeros get a sign at random."""
    drawn = np.where(rng.random(values.shape) < 0.5, -1.0, 1.0)
    sign = np.where(values == 0, drawn, np.sign(values))
    return np.asarray(sign * np.abs(values).mean()) if values.size else values.copy()
