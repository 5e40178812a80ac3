"""Image files of a class-folder tree, in a folder or inside a zip. Nothing is extracted to disk."""

import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fl_audit.core.errors import ConfigError

SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
"""Suffixes of image files, lower case; other files are ignored."""

MAX_FILE_BYTES = 64 * 2**20
"""Size of one image file, uncompressed: a zip entry that claims or yields more is refused."""

MAX_FILES = 2_000_000


@dataclass(frozen=True)
class ImageFiles:
    """The image files of one tree.

    Attributes:
        names: ``CLASS/FILE`` below the root, sorted by class, then by file, as text.
        read: the bytes of one of them; raises ConfigError naming the file.
    """

    names: tuple[str, ...]
    read: Callable[[str], bytes]


@contextmanager
def open_files(spec: str) -> Iterator[ImageFiles]:
    """Open the tree at ``PATH`` or ``PATH.zip:inner/folder`` for the time of the block.

    Raises:
        ConfigError: nothing is there, it is no zip, or it holds no class folders with images.
    """
    path, inner = split_spec(spec)
    if path.is_dir():
        yield ImageFiles(_class_files(spec, _walk(path)), lambda name: _read_file(path / name))
    elif path.is_file():
        try:
            archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise ConfigError(f"dataset {spec!r}: {path} is not a whole zip file ({error})") from None
        with archive:
            entries = _entries(spec, archive, inner)
            names = _class_files(spec, list(entries))
            yield ImageFiles(names, lambda name: _read_entry(path, archive, entries[name]))
    else:
        raise ConfigError(
            f"dataset {spec!r}: no such folder or zip: {path}. Expected a folder or zip with one folder of "
            "images per class, e.g. PATH, or PATH.zip:inner/folder"
        )


def split_spec(spec: str) -> tuple[Path, str]:
    """``PATH.zip:inner/folder`` to the zip's path and the folder inside; no inner folder is ``""``."""
    cut = spec.lower().find(".zip:")
    file, inner = (spec, "") if cut < 0 else (spec[: cut + 4], spec[cut + 5 :])
    return Path(file).expanduser(), inner.strip("/")


def _walk(root: Path) -> list[str]:
    found: list[str] = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not _hidden(name)]
        below = Path(folder).relative_to(root)
        found += [(below / name).as_posix() for name in files]
    return found


def _entries(spec: str, archive: zipfile.ZipFile, inner: str) -> dict[str, zipfile.ZipInfo]:
    """Files below the folder ``inner`` of the zip, by their name below it."""
    prefix = f"{inner}/" if inner else ""
    entries = {info.filename: info for info in archive.infolist() if not info.is_dir()}
    below = {name[len(prefix) :]: info for name, info in entries.items() if name.startswith(prefix)}
    if not below:
        tops = sorted({name.split("/", 1)[0] for name in entries if "/" in name and not _hidden(name)})
        raise ConfigError(
            f"dataset {spec!r}: the zip has no folder {inner!r} with files. Its top folders: "
            f"{', '.join(tops[:10]) or 'none'}"
        )
    return below


def _class_files(spec: str, names: list[str]) -> tuple[str, ...]:
    """Names of images in class folders, sorted; hidden and other files are left out."""
    images = [name for name in names if _is_image(name)]
    if len(images) > MAX_FILES:
        raise ConfigError(f"dataset {spec!r}: {len(images)} images, over the limit of {MAX_FILES}")
    if not images:
        raise ConfigError(
            f"dataset {spec!r}: no images in it. Expected one folder per class with files ending in "
            f"{' '.join(sorted(SUFFIXES))}"
        )
    for name in sorted(images):
        depth = name.count("/")
        if depth == 0:
            raise ConfigError(
                f"dataset {spec!r}: {name} lies outside any class folder. Expected CLASS/{name}, one folder "
                "for each class"
            )
        if depth > 1:
            raise ConfigError(
                f"dataset {spec!r}: {name} lies too deep: expected images directly in class folders, i.e. "
                f"CLASS/FILE. Is {_inside(spec, str(PurePosixPath(name).parent.parent))!r} what you mean?"
            )
    return tuple(sorted(images, key=lambda name: tuple(name.split("/"))))


def _inside(spec: str, folder: str) -> str:
    path, inner = split_spec(spec)
    if path.is_dir() or inner:
        return f"{spec.rstrip('/')}/{folder}"
    return f"{spec}:{folder}"


def _is_image(name: str) -> bool:
    parts = PurePosixPath(name)
    return parts.suffix.lower() in SUFFIXES and not any(_hidden(part) for part in parts.parts)


def _hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


def _read_file(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ConfigError(f"{path}: {size} bytes, over the limit of {MAX_FILE_BYTES} for one image")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from None


def _read_entry(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """One entry; the limit holds for what the zip claims and for what really comes out."""
    where = f"{path}:{info.filename}"
    if info.file_size > MAX_FILE_BYTES:
        raise ConfigError(
            f"{where}: {info.file_size} bytes, over the limit of {MAX_FILE_BYTES} for one image"
        )
    try:
        with archive.open(info) as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, EOFError, ValueError) as error:
        # RuntimeError: encrypted; NotImplementedError: an unknown compression.
        raise ConfigError(f"{where}: cannot be read from the zip ({error})") from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{where}: more than {MAX_FILE_BYTES} bytes, the limit for one image")
    return data
