"""Pairs of original and reconstruction in image folders, matched by name."""

import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fl_audit.core.decode import exact_pixels
from fl_audit.core.errors import ConfigError

SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
"""Suffixes of image files, lower case; other files are ignored."""

ORIGINAL, RECONSTRUCTION = "_ori", "_rec"
"""How the names of originals and reconstructions end where they do not carry equal names."""

MAX_FILE_BYTES = 64 * 2**20
MAX_FILES = 2_000_000
SHOWN = 10
"""Names that one error message lists."""


@dataclass(frozen=True)
class PairFiles:
    """The two files of one pair; ``name`` is the path below the folder (NFC), without suffix and mark."""

    name: str
    original: Path
    reconstruction: Path


@dataclass(frozen=True)
class Pairs:
    """What two folders hold.

    Attributes:
        pairs: by name.
        left_out: images without a mark beside marked ones.
    """

    pairs: tuple[PairFiles, ...]
    left_out: tuple[Path, ...]

    @property
    def with_itself(self) -> bool:
        """Whether every image is compared with itself."""
        return all(pair.original.resolve() == pair.reconstruction.resolve() for pair in self.pairs)


def find_pairs(originals: Path, reconstructions: Path) -> Pairs:
    """Match the images of two folders, sub-folders included, by name.

    ``X_ori.png`` belongs to ``X_rec.png`` where the one folder has the first kind and the other the second;
    the two may be one folder, and images without a mark are left out. Otherwise ``X.png`` belongs to
    ``X.png``, and one folder given twice is compared with itself; a mark that only one side carries does
    not count if no names are equal. Nor does the suffix of the format, nor how an accent is written in
    Unicode. Hidden files and files that are no images are not looked at.

    Raises:
        ConfigError: a folder is missing or has no images, two files claim one name, or a file has no
            partner; names the files.
    """
    left, right = _images(originals), _images(reconstructions)
    marked = [path for path in left if path.stem.endswith(ORIGINAL)]
    partners = [path for path in right if path.stem.endswith(RECONSTRUCTION)]
    left_out: set[Path] = set()
    if marked and partners:
        used = {originals / path for path in marked} | {reconstructions / path for path in partners}
        everything = {originals / path for path in left} | {reconstructions / path for path in right}
        left_out = {path for path in everything - used if not path.stem.endswith((ORIGINAL, RECONSTRUCTION))}
        first = _named(originals, marked, ORIGINAL)
        second = _named(reconstructions, partners, RECONSTRUCTION)
    elif {_name(path) for path in left}.isdisjoint(_name(path) for path in right):
        first, second = _named(originals, left, ORIGINAL), _named(reconstructions, right, RECONSTRUCTION)
    else:
        first, second = _named(originals, left, ""), _named(reconstructions, right, "")
    lost = [f"{path} has no reconstruction" for name, path in first.items() if name not in second]
    lost += [f"{path} has no original" for name, path in second.items() if name not in first]
    if lost:
        more = f"; and {len(lost) - SHOWN} more" if len(lost) > SHOWN else ""
        raise ConfigError(
            f"images without a partner: {'; '.join(lost[:SHOWN])}{more}. Pairs are found by name: "
            f"X{ORIGINAL}.png with X{RECONSTRUCTION}.png, or equal names in both folders"
        )
    pairs = tuple(PairFiles(name, first[name], second[name]) for name in sorted(first))
    return Pairs(pairs, tuple(sorted(left_out)))


def read_pair(pair: PairFiles) -> tuple[Tensor, Tensor]:
    """Decode one pair: float32 ``(C, H, W)`` each, grey beside colour with three equal channels.

    The original is in [0, 1]; a reconstruction of floats may hold anything, which metrics then do not score.

    Raises:
        ConfigError: a file cannot be read, would lose something in decoding, or the two differ in size.
    """
    original, reconstruction = (_read(path) for path in (pair.original, pair.reconstruction))
    if original.shape[1:] != reconstruction.shape[1:]:
        raise ConfigError(
            f"{pair.reconstruction}: {_size(reconstruction)} pixels, its original {pair.original} has "
            f"{_size(original)}; crop or resize one of them"
        )
    if not bool(((original >= 0) & (original <= 1)).all()):
        raise ConfigError(f"{pair.original}: expected values in [0, 1], found NaN or values outside")
    channels = max(len(original), len(reconstruction))
    return original.expand(channels, -1, -1), reconstruction.expand(channels, -1, -1)


def _read(path: Path) -> Tensor:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{path}: over the limit of {MAX_FILE_BYTES} bytes for one image")
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from None
    return exact_pixels(data, str(path))


def _size(image: Tensor) -> str:
    return f"{image.shape[2]}x{image.shape[1]}"


def _images(folder: Path) -> list[Path]:
    """Image files below ``folder``, sorted, relative to it."""
    if not folder.is_dir():
        what = "a file" if folder.exists() else "nothing"
        raise ConfigError(f"{folder}: expected a folder of images, found {what}")
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        below = Path(place).relative_to(folder)
        found += [below / name for name in files if not name.startswith(".") and _is_image(name)]
        if len(found) > MAX_FILES:
            raise ConfigError(f"{folder}: over the limit of {MAX_FILES:,} images")
    if not found:
        raise ConfigError(f"{folder}: no images in it. Expected files ending in {' '.join(sorted(SUFFIXES))}")
    unreadable = [path for path in found if not path.as_posix().isprintable()]
    if unreadable:
        raise ConfigError(f"{folder}: a file name that cannot be printed: {unreadable[0].as_posix()!a}")
    return sorted(found)


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def normal(name: str) -> str:
    """A name in the one form of Unicode that names are compared in: file systems differ in it."""
    return unicodedata.normalize("NFC", name)


def _name(path: Path) -> str:
    return normal(path.with_suffix("").as_posix())


def _named(folder: Path, paths: list[Path], mark: str) -> dict[str, Path]:
    """Files by name without suffix and ``mark``."""
    named: dict[str, Path] = {}
    for path in paths:
        name = _name(path).removesuffix(mark)
        if name in named:
            raise ConfigError(f"{folder / path}: {named[name].name} lies beside it and has the same name")
        named[name] = folder / path
    return named
