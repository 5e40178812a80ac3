"""Files of a run folder: written whole or not at all, checked before they are read. No pickle."""

import json
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from fl_audit.core.errors import CaptureError

M = TypeVar("M", bound=BaseModel)

_DTYPES = {
    **{torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"},
    **{torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8"},
    **{torch.uint8: "U8", torch.bool: "BOOL"},
}
"""How safetensors calls them."""

MAX_JSON = 64 * 2**20
MAX_TENSORS = 8 * 2**30


def write_bytes(path: Path, data: bytes) -> None:
    """Write through a temporary file and rename, so that a kill leaves the old file or the new one."""
    _write_whole(path, [data])


def _write_whole(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """`write_bytes` in UTF-8."""
    write_bytes(path, text.encode())


def dump_json(value: Any) -> str:
    """JSON with NaN and infinity refused: an unmeasured value is None with a reason beside it."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write `dump_json` of ``value``."""
    write_text(path, dump_json(value))


def read_json(path: Path) -> Any:
    """Read JSON; a `CaptureError` names the file if it is missing, too large or not JSON."""
    _check_size(path, MAX_JSON)
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CaptureError(f"{path}: not JSON ({error})") from error


def read_model(path: Path, model: type[M], what: str) -> M:
    """Read JSON of a known form; a `CaptureError` names the file and says that it is not ``what``."""
    try:
        return model.model_validate(read_json(path))
    except ValidationError as error:
        raise CaptureError(f"{path}: not {what} ({error.error_count()} fields are wrong)") from error


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write safetensors; names, shapes and dtypes are kept, their order is not.

    The library would make a copy of everything first; here the tensors go to the file one by one.
    """
    if sys.byteorder != "little" or any(tensor.dtype not in _DTYPES for tensor in tensors.values()):
        data = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_bytes(path, safetensors.torch.save(data, dict(metadata) if metadata else None))
        return
    # As the library orders them: the widest first, so that all are aligned.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in names:
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        shape = list(tensor.shape)
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    _write_whole(path, chain([len(text).to_bytes(8, "little"), text], (buffer_of(tensors[n]) for n in names)))


def buffer_of(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, without a copy where it is contiguous and on the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy().data


def read_tensors(path: Path, limit: int = MAX_TENSORS) -> dict[str, Tensor]:
    """Read safetensors; a `CaptureError` names the file if it is missing, too large or damaged."""
    _check_size(path, limit)
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, ValueError, KeyError, OSError) as error:
        raise CaptureError(f"{path}: not a whole safetensors file ({error})") from error


def _check_size(path: Path, limit: int) -> None:
    if path.is_symlink() or not path.is_file():
        raise CaptureError(f"{path}: expected a file, found {'a link' if path.is_symlink() else 'none'}")
    size = path.stat().st_size
    if size > limit:
        raise CaptureError(f"{path}: {size} bytes, over the limit of {limit}")
