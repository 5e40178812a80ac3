"""One round of Flower's SecAgg+ as its server sees it: from masked vectors and shares to the weighted mean.

A client sends ``[w, w * weights]`` as whole numbers, masked by a seed of its own and by one shared with each
neighbour; the latter cancel in the sum. Clients that stay then hand over shares of the seeds of those that
sent something, and of the keys of those that dropped out, so that the server takes the masks off the sum and
off nothing else. `MaskedRound` takes the same steps on the same messages.

Bell et al., "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead", CCS 2020, figure 2, in the
form of ``flwr.server.workflow.SecAggPlusWorkflow``. It differs in two things: where several neighbours
dropped out, a mask between two of them, which is in no vector, is not taken off; and arrays of no dimension
are scaled back like the others, which Flower 1.41 forgets.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import RecordDict
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key

from fl_audit.strategies._content import MAX_BYTES, short, view_of

PROTOCOL = RECORD_KEY_CONFIGS
"""The config record by which the protocol speaks."""

COLLECT = Stage.COLLECT_MASKED_VECTORS
"""The step in which the model goes out and masked vectors come back."""

Shape = tuple[int, ...]

_BROKEN = (
    ArithmeticError,
    AssertionError,
    EOFError,
    LookupError,
    MemoryError,
    SyntaxError,
    TypeError,
    ValueError,
)
"""What reading and computing on whatever a client sent can raise."""


class StillMaskedError(Exception):
    """Why the masks are not off the sum."""


def step_of(content: RecordDict) -> dict[str, Any] | None:
    """What a message of the protocol says, its ``stage`` included; None if it is none."""
    values = dict(content.config_records.get(RECORD_KEY_CONFIGS, {}))
    return values if values.get(Key.STAGE) in Stage.all() else None


class MaskedRound:
    """The messages of one round; holds one sum of vectors and no single one.

    Attributes:
        active: nodes whose masked vector is in the sum.
    """

    def __init__(self) -> None:
        self.active: list[int] = []
        self._setup: dict[str, Any] = {}
        self._keys: dict[int, bytes] = {}
        self._heard: dict[int, list[int]] = {}
        self._shares: dict[int, list[bytes]] = {}
        self._sum: list[np.ndarray] = []
        self._problem: str | None = None

    def take(self, node: int, step: Mapping[str, Any], content: RecordDict, shapes: Sequence[Shape]) -> None:
        """Take one exchange.

        Args:
            node: the client's node.
            step: what it was sent, see `step_of`.
            content: what it replied.
            shapes: of the model's arrays, in order; looked at where masked vectors come.
        """
        reply: dict[str, Any] = dict(content.config_records.get(RECORD_KEY_CONFIGS, {}))
        try:
            if step[Key.STAGE] == Stage.SETUP:
                self._setup = dict(step)
                self._keys[node] = reply[Key.PUBLIC_KEY_1]
            elif step[Key.STAGE] == COLLECT:
                self._add(reply[Key.MASKED_PARAMETERS], shapes)
                self._heard[node] = list(step[Key.SOURCE_LIST])
                self.active.append(node)
            elif step[Key.STAGE] == Stage.UNMASK:
                for owner, share in zip(reply[Key.NODE_ID_LIST], reply[Key.SHARE_LIST], strict=True):
                    self._shares.setdefault(owner, []).append(share)
        except _BROKEN as error:
            self._problem = (
                f"node {node} answered {step[Key.STAGE]!r} in another form than SecAgg+: {_say(error)}"
            )

    @property
    def asked(self) -> bool:
        """Whether any share has come: what is missing then stays missing."""
        return bool(self._shares) or self._problem is not None

    def mean(self) -> list[np.ndarray]:
        """The weighted mean of the weights, float64, in the order and shapes sent.

        It can be had once, and asked for again where shares were missing.

        Raises:
            StillMaskedError: shares are missing, or something is not as the protocol has it.
        """
        if self._problem is not None:
            raise StillMaskedError(self._problem)
        if not self.active:
            raise StillMaskedError("no masked vector came")
        try:
            return self._unmasked()
        except _BROKEN as error:
            raise StillMaskedError(f"the masks cannot be taken off: {_say(error)}") from None

    def _add(self, vectors: Sequence[bytes], shapes: Sequence[Shape]) -> None:
        expected = [(1,), *shapes]
        if sum(len(data) for data in vectors) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes of masked vectors")
        arrays = [view_of(data) for data in vectors]
        found = [array.shape for array in arrays]
        if found != expected or any(array.dtype.kind not in "iu" for array in arrays):
            raise ValueError(f"{len(found)} masked arrays do not fit the {len(shapes)} arrays of the model")
        if not self._sum:
            self._sum = [np.zeros(shape, dtype=np.int64) for shape in expected]
        for total, array in zip(self._sum, arrays, strict=True):
            np.add(total, array, out=total, casting="unsafe")

    def _unmasked(self) -> list[np.ndarray]:
        modulus, threshold = int(self._setup[Key.MOD_RANGE]), int(self._setup[Key.THRESHOLD])
        gone = sorted({node for heard in self._heard.values() for node in heard} - set(self.active))
        for node in (*self.active, *gone):
            shares = len(self._shares.get(node, ()))
            if shares < threshold:
                raise StillMaskedError(f"{shares} shares of a secret came, the protocol takes {threshold}")
        for node in self.active:
            self._shift(combine_shares(self._shares[node]), modulus, -1)
        for node in gone:
            key = bytes_to_private_key(combine_shares(self._shares[node]))
            for other in self.active:
                if node in self._heard[other]:
                    shared = generate_shared_key(key, bytes_to_public_key(self._keys[other]))
                    self._shift(shared, modulus, -1 if other > node else 1)
        (factor,), *sums = (total % modulus for total in self._sum)
        if factor <= 0:
            raise ValueError(f"the weights add up to {factor}")
        clip, steps = float(self._setup[Key.CLIPPING_RANGE]), int(self._setup[Key.TARGET_RANGE])
        # Each client's values were shifted by the clipping range, so as to be positive.
        return [(total * (2 * clip / steps) - len(self.active) * clip) * (steps / factor) for total in sums]

    def _shift(self, seed: bytes, modulus: int, sign: int) -> None:
        """Add or take off the mask of a seed; sums stay below 2^63 whatever the masks are."""
        shapes = [total.shape for total in self._sum]
        for total, mask in zip(self._sum, pseudo_rand_gen(seed, modulus, shapes), strict=True):
            (np.add if sign > 0 else np.subtract)(total, mask, out=total)
            np.mod(total, modulus, out=total)


def _say(error: Exception) -> str:
    return short(f"{type(error).__name__}: {error}", 200)
