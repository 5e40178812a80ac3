"""Updates as arrays: what a client changed, its norm, and how it is put back. Pure numpy.

The update is ``received - sent`` over the floating-point arrays, in float64; integer arrays (a batch-norm
counter) are no part of it. 0-d arrays are arrays like any other here, and a zero update has norm 0: in
Flower 1.41's own functions the former escape clipping and noise, and the latter divides by zero.
"""

from collections.abc import Callable, Mapping

import numpy as np

from fl_audit.core.units import Arrays


def is_float(array: np.ndarray) -> bool:
    """Whether ``array`` takes part in an update."""
    return bool(np.issubdtype(array.dtype, np.floating))


def update_of(sent: Arrays, received: Arrays) -> dict[str, np.ndarray]:
    """``received - sent`` in float64, for the floating-point arrays of ``received``, in its order.

    Raises:
        ValueError: names or shapes differ. There is then no update to defend, so nothing must leave.
    """
    if list(sent) != list(received) and set(sent) != set(received):
        missing, extra = sorted(set(sent) - set(received)), sorted(set(received) - set(sent))
        raise ValueError(f"arrays differ from what was sent: missing {missing[:5]}, extra {extra[:5]}")
    for name, array in received.items():
        if array.shape != sent[name].shape:
            raise ValueError(f"array {name!r} has shape {array.shape}, expected {sent[name].shape}")
    return {
        name: np.subtract(array, sent[name], dtype=np.float64)
        for name, array in received.items()
        if is_float(array)
    }


def with_update(sent: Arrays, received: Arrays, update: Arrays) -> dict[str, np.ndarray]:
    """``sent + update`` with the dtypes of ``received``; arrays that have no update stay as received."""
    return {
        name: np.asarray(sent[name] + update[name]).astype(array.dtype) if name in update else array.copy()
        for name, array in received.items()
    }


def integers_as_sent(sent: Arrays, received: Arrays) -> dict[str, np.ndarray]:
    """``received`` with its integer arrays as they were sent: no noise covers what they count."""
    return {
        name: array if is_float(array) else np.asarray(sent[name], array.dtype)
        for name, array in received.items()
    }


def l2_norm(update: Arrays) -> float:
    """Euclidean norm of all arrays together, 0-d ones included."""
    return float(np.sqrt(sum(float(np.sum(np.square(array, dtype=np.float64))) for array in update.values())))


def l1_norm(update: Arrays) -> float:
    """Sum of the magnitudes of all entries of all arrays."""
    return float(sum(float(np.sum(np.abs(array), dtype=np.float64)) for array in update.values()))


def clip(update: Arrays, norm: float, length: Callable[[Arrays], float] = l2_norm) -> dict[str, np.ndarray]:
    """Scale ``update`` so that its L2 norm is at most ``norm`` (flat clipping, arXiv:1710.06963).

    ``length`` is another norm to go by, e.g. `l1_norm`.

    Raises:
        ValueError: the update is not finite: no factor brings it to a norm.
    """
    found = length(update)
    if not np.isfinite(found):
        raise ValueError("the update contains NaN or inf, so it cannot be clipped and must not leave")
    factor = 1.0 if found <= norm else norm / found
    return {name: np.asarray(array * factor) for name, array in update.items()}


def add_gaussian(update: Arrays, std: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Add independent Gaussian noise of standard deviation ``std`` to every entry."""
    return {name: np.asarray(array + rng.normal(0.0, std, array.shape)) for name, array in update.items()}


def add_laplace(update: Arrays, scale: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Add independent Laplace noise of scale ``scale`` (its std is ``sqrt(2) * scale``) to every entry."""
    return {name: np.asarray(array + rng.laplace(0.0, scale, array.shape)) for name, array in update.items()}


def must_be_finite(update: Arrays) -> None:
    """Raise ValueError for an update with NaN or inf, which would stay in what a defense remembers."""
    if not all(bool(np.isfinite(array).all()) for array in update.values()):
        raise ValueError("the update contains NaN or inf, so it cannot be compressed and must not leave")


def prune_smallest(values: np.ndarray, fraction: float) -> np.ndarray:
    """A copy with the ``floor(fraction * size)`` entries of smallest magnitude set to 0."""
    return keep_largest(values, values.size - int(fraction * values.size))


def keep_largest(values: np.ndarray, count: int) -> np.ndarray:
    """A copy with all but the ``count`` entries of largest magnitude set to 0.

    Of equal magnitudes the first in memory order go first. NaN counts as the largest.
    """
    flat = values.reshape(-1).copy()
    gone = flat.size - count
    if gone > 0:
        magnitude = np.abs(flat)
        threshold = np.partition(magnitude, gone - 1)[gone - 1]
        below = magnitude < threshold
        ties = np.flatnonzero(magnitude == threshold)[: gone - int(below.sum())]
        flat[below] = 0.0
        flat[ties] = 0.0
    return flat.reshape(values.shape)


def map_flat(update: Arrays, change: Callable[[np.ndarray], np.ndarray]) -> dict[str, np.ndarray]:
    """Apply ``change`` to all entries as one vector, and cut the result back into arrays."""
    if not update:
        return {}
    flat = change(np.concatenate([array.reshape(-1) for array in update.values()]))
    return _cut(flat, update)


def _cut(flat: np.ndarray, like: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    pieces, start = {}, 0
    for name, array in like.items():
        pieces[name] = flat[start : start + array.size].reshape(array.shape)
        start += array.size
    return pieces
