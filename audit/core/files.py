"""Files of a run folder: written whole or not at all, checked before they are read. No pickle."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from fl_audit.core.durable import DiskQueue
from fl_audit.core.errors import CaptureError

M = TypeVar("M", bound=BaseModel)

MAX_JSON = 64 * 2**20
MAX_TENSORS = 8 * 2**30


def write_bytes(path: Path, data: bytes, *, later: DiskQueue | None = None) -> None:
    """Write through a temporary file and rename, so that a kill leaves the old file or the new one."""
    with _replacing(path, later) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str, *, later: DiskQueue | None = None) -> None:
    """`write_bytes` in UTF-8."""
    write_bytes(path, text.encode(), later=later)


def dump_json(value: Any) -> str:
    """JSON with NaN and infinity refused: an unmeasured value is None with a reason beside it."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any, *, later: DiskQueue | None = None) -> None:
    """Write `dump_json` of ``value``."""
    write_text(path, dump_json(value), later=later)


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
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    later: DiskQueue | None = None,
) -> None:
    """Write safetensors; names, shapes and dtypes are kept, their order is not. Whole like `write_bytes`.

    Tensors go to the file as they lie in memory; only what is not contiguous, or shares memory, is copied.
    With ``later`` the file is there at once, and on the disk once that queue has brought it there.
    """
    seen: set[int] = set()
    data: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        place = value.untyped_storage().data_ptr()
        data[name] = value.clone() if place in seen else value
        seen.add(place)
    with _replacing(path, later) as temporary:
        safetensors.torch.save_file(data, temporary, dict(metadata) if metadata else None)


def read_tensors(path: Path, limit: int = MAX_TENSORS) -> dict[str, Tensor]:
    """Read safetensors; a `CaptureError` names the file if it is missing, too large or damaged."""
    _check_size(path, limit)
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, ValueError, KeyError, OSError) as error:
        raise CaptureError(f"{path}: not a whole safetensors file ({error})") from error


@contextmanager
def _replacing(path: Path, later: DiskQueue | None = None) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place once it is whole, and soon on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        if later is None:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if later is not None:
        later.add(path)


def _check_size(path: Path, limit: int) -> None:
    if path.is_symlink() or not path.is_file():
        raise CaptureError(f"{path}: expected a file, found {'a link' if path.is_symlink() else 'none'}")
    size = path.stat().st_size
    if size > limit:
        raise CaptureError(f"{path}: {size} bytes, over the limit of {limit}")
