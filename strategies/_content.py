"""Reading what a client sent, which may be anything: arrays to tensors, metrics to scalars, no pickle."""

import math
import warnings
from collections.abc import Iterable, Mapping
from io import BytesIO
from typing import Any, Literal

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, RecordDict
from torch import Tensor

from fl_audit.core.types import Scalar

MAX_BYTES = 8 * 2**30
"""Arrays of one message may take this many bytes."""
MAX_ARRAYS = 20_000
MAX_METRICS = 200
MAX_TEXT = 500

_KINDS = "fiub"  # float, signed, unsigned, bool: what a tensor can hold
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def named_arrays(content: RecordDict, main: str | None = None) -> tuple[dict[str, Array], str | None]:
    """All arrays of a message by name, and the key of its main record.

    The main record's arrays keep their names; those of other records get ``record/`` in front. Main is the
    record called ``main`` if there is one, else the first.
    """
    records = dict(content.array_records)
    key = main if main in records else next(iter(records), None)
    arrays = {
        name if record == key else f"{record}/{name}": array
        for record, values in records.items()
        for name, array in values.items()
    }
    return arrays, key


def read_arrays(arrays: Mapping[str, Array]) -> tuple[dict[str, Tensor], str | None]:
    """Arrays as tensors, and what is wrong with those that could not be read.

    The tensors are views of the arrays' bytes, which nobody may write to: reading a model takes no memory.
    Only what is not in native byte order, C order and aligned is copied.
    """
    problems: list[str] = []
    if len(arrays) > MAX_ARRAYS:
        return {}, f"{len(arrays)} arrays, over the limit of {MAX_ARRAYS}"
    size = sum(len(array.data) for array in arrays.values())
    if size > MAX_BYTES:
        return {}, f"{size} bytes of arrays, over the limit of {MAX_BYTES}"
    tensors: dict[str, Tensor] = {}
    for name, array in arrays.items():
        try:
            _check_name(name)
            tensors[name] = _tensor(array)
        except (ValueError, TypeError, OverflowError, EOFError, SyntaxError, MemoryError) as error:
            problems.append(f"array {short(name, 80)!r} cannot be read: {short(str(error), 200)}")
    return tensors, "; ".join(problems[:3]) or None


def view_of(data: bytes) -> np.ndarray:
    """The array over its own bytes; a header that promises more than follows it is refused."""
    stream = BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"npy format {version}")
    shape, fortran, dtype = _HEADERS[version](stream)
    if dtype.kind not in _KINDS or dtype.itemsize > 8:
        raise TypeError(f"dtype {dtype}, expected float, int or bool of at most 8 bytes")
    expected, found = math.prod(shape) * dtype.itemsize, len(data) - stream.tell()
    if expected != found:
        raise ValueError(f"shape {shape} of {dtype} takes {expected} bytes, {found} came")
    order: Literal["F", "C"] = "F" if fortran else "C"
    return np.ndarray(shape, dtype, buffer=data, offset=stream.tell(), order=order)


def read_scalars(records: Iterable[Mapping[str, Any]]) -> dict[str, Scalar]:
    """Numbers, strings and booleans of metric or config records; anything else as a short description."""
    scalars: dict[str, Scalar] = {}
    for record in records:
        for name, value in record.items():
            if len(scalars) >= MAX_METRICS:
                scalars["…"] = f"more than {MAX_METRICS} values, the others are not kept"
                return scalars
            scalars[short(str(name), 100)] = _scalar(value)
    return scalars


def short(text: str, limit: int = MAX_TEXT) -> str:
    """``text`` as valid UTF-8 of at most ``limit`` characters."""
    clean = text.encode("utf-8", "replace").decode()
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def copy_content(content: RecordDict) -> RecordDict:
    """New containers over the same array bytes, which nothing can change: a snapshot that costs nothing."""
    copy = RecordDict()
    for key, record in content.items():
        duplicate: Any = record.copy()
        for name, value in duplicate.items():
            if isinstance(value, list):
                duplicate[name] = list(value)
            elif isinstance(value, Array):
                duplicate[name] = Array(value.dtype, tuple(value.shape), value.stype, value.data)
        copy[key] = duplicate
    return copy


def record_of(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    """An ArrayRecord of numpy arrays, 0-d ones included, in order."""
    return ArrayRecord(
        {name: Array(np.ascontiguousarray(array).reshape(array.shape)) for name, array in arrays.items()}
    )


def _check_name(name: str) -> None:
    if not name or name == "__metadata__" or len(name) > 1000:
        raise ValueError("not a usable name")
    name.encode()


def _tensor(array: Array) -> Tensor:
    if array.stype != "numpy.ndarray":
        raise TypeError(f"serialised as {short(str(array.stype), 40)!r}, expected 'numpy.ndarray'")
    values = view_of(array.data)
    if not (values.dtype.isnative and values.flags.c_contiguous and values.flags.aligned):
        values = values.astype(values.dtype.newbyteorder("="), order="C", copy=True)
    return torch.from_numpy(values)


def _accept_views() -> None:
    """Let PyTorch give its one warning about tensors over memory that must not be written, unseen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.from_numpy(np.frombuffer(b"0", dtype=np.uint8))


_accept_views()


def _scalar(value: Any) -> Scalar:
    if isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if value.bit_length() < 64 else f"an integer of {value.bit_length()} bits"
    if isinstance(value, str):
        return short(value, 200)
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)} values"
    return f"a {type(value).__name__}"
