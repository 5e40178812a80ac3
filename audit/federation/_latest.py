"""The latest global model, built once for all the clients of a process that evaluate it."""

from collections.abc import Callable

from flwr.app import ArrayRecord
from torch import nn


class LatestModel:
    """Remembers one model by the bytes that it was loaded from.

    With many clients, building the model and reading its weights anew for each would cost far more than
    classifying the few test images of a client. Use it in eval mode only, which changes nothing in a model.
    """

    def __init__(self) -> None:
        self._bytes: list[bytes] = []
        self._model: nn.Module | None = None

    def get(self, arrays: ArrayRecord, build: Callable[[], nn.Module]) -> nn.Module:
        """The model with the weights ``arrays``; ``build`` makes it where these are other bytes than last."""
        found = [array.data for array in arrays.values()]
        same = len(found) == len(self._bytes) and all(map(lambda a, b: a is b, found, self._bytes))
        if self._model is None or not same:
            self._model = build().eval()
            self._bytes = found
        return self._model
