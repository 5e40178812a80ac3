"""A value that goes to Ray workers once, not with every message."""

from typing import Any, Generic, TypeVar

T = TypeVar("T")

_fetched: dict[str, Any] = {}


class Shared(Generic[T]):
    """Holds ``value``. Where it is pickled (only Ray does that), the value goes to Ray's object store.

    Flower pickles the whole client app with every message; a data set in it would travel each time.
    """

    def __init__(self, value: T) -> None:
        self.value = value
        self._reference: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        import ray

        if self._reference is None:
            self._reference = ray.put(self.value)
        return _fetch, (self._reference,)


def _fetch(reference: Any) -> Shared[Any]:
    import ray

    key = reference.hex()
    if key not in _fetched:
        _fetched.clear()  # a worker serves one federation at a time
        _fetched[key] = ray.get(reference)
    shared = Shared(_fetched[key])
    shared._reference = reference
    return shared
