"""What went to one client, kept as it was when it went."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flwr.app import Array
from torch import Tensor

from fl_audit.core.captures import digest_of
from fl_audit.core.types import CaptureKey, Scalar
from fl_audit.strategies._content import read_arrays


class SentModel:
    """The arrays of a message, read and hashed once for all the clients that get the same bytes.

    Attributes:
        size: bytes of all of them; 0 without arrays.
    """

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        # Objects of its own over the same bytes: those of a message may change after it was sent.
        self._arrays = {name: Array(a.dtype, tuple(a.shape), a.stype, a.data) for name, a in arrays.items()}
        self.size = sum(len(array.data) for array in arrays.values())

    @cached_property
    def read(self) -> tuple[dict[str, Tensor], str | None]:
        """As `read_arrays`."""
        return read_arrays(self._arrays)

    @cached_property
    def digest(self) -> str:
        """Names the file of the model."""
        return digest_of(self.read[0])


@dataclass(frozen=True)
class Sent:
    """What went to one client: a snapshot, for the containers of a message change after it was sent.

    Attributes:
        key: which client, in which round.
        node_id: Flower's node id.
        model: the arrays.
        record: key of the record that they were in.
        config: scalars that travelled with them.
        kept: whether the capture of this exchange is written.
        step: what it says as a message of SecAgg+; None if it is none.
    """

    key: CaptureKey
    node_id: int
    model: SentModel
    record: str | None
    config: Mapping[str, Scalar]
    kept: bool
    step: Mapping[str, Any] | None = None
