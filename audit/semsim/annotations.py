"""People's answers on pairs of images: two layouts, several annotators, and errors that name the rows.

- The SemSim authors' folders: ``ID/`` holds ``*_ori.png`` and the reconstructions of it that were
  recognised, ``-ID/`` those that were not, both in ``train_with_ori/`` or in the folder itself; ``others/``
  further images that show none of the originals.
- Ours: ``annotations.jsonl``, one answer a line, ``{"pair": "X", "answer": 0, 0.5 or 1, "annotator": "A"}``,
  beside the images ``X_ori.png`` and ``X_rec.png`` (in the folder or below it; ``X`` may be a path). ``id``
  and ``label`` may stand for ``pair`` and ``answer``, as in the labels of ``fl-audit metrics``.
"""

import codecs
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from fl_audit.core.decode import exact_pixels
from fl_audit.core.errors import ConfigError
from fl_audit.semsim.pictures import small_uint8

JSONL = "annotations.jsonl"
FOLDERS = "train_with_ori"
OTHERS = "others"
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")

_SHOWN = 5
_MAX_BYTES = 256 * 2**20
_MAX_IMAGE_BYTES = 64 * 2**20


class Answer(BaseModel):
    """One annotator's answer on one pair."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    pair: str = Field(
        validation_alias=AliasChoices("pair", "id"),
        min_length=1,
        max_length=500,
        description="name of the pair's files, without _ori",
    )
    answer: float = Field(
        validation_alias=AliasChoices("answer", "label"),
        ge=0,
        le=1,
        description="1 recognised, 0 not, 0.5 partly",
    )
    annotator: str = Field("", max_length=500, description="who answered")


@dataclass(frozen=True)
class Annotations:
    """Judged pairs, ready for training.

    Attributes:
        names: of the pairs.
        originals: uint8 ``(N, 3, 32, 32)``.
        reconstructions: uint8 ``(N, 3, 32, 32)``.
        answers: mean answer of each pair's annotators, float32 ``(N,)`` in [0, 1].
        annotators: how many answered on each pair, int64 ``(N,)``.
        others: images that show none of the originals, uint8 ``(M, 3, 32, 32)``.
    """

    names: tuple[str, ...]
    originals: Tensor
    reconstructions: Tensor
    answers: Tensor
    annotators: Tensor
    others: Tensor


def read_annotations(folder: Path) -> Annotations:
    """Read a folder of either layout.

    Raises:
        ConfigError: it has neither layout, an image is missing or damaged, a row is not an answer, one
            annotator contradicts themselves, or all pairs have one label; names files and rows.
    """
    ours = (folder / JSONL).is_file()
    found = _read_jsonl(folder) if ours else _read_folders(folder, _root(folder))
    answers = found.answers
    if not bool((answers > 0.5).any()) or not bool((answers < 0.5).any()):
        value = sorted(set(answers.tolist()))
        raise ConfigError(
            f"{folder}: training needs pairs that were recognised and pairs that were not; all "
            f"{len(answers)} pairs have the answers {value[:_SHOWN]}: {_some(found.names)}"
        )
    return found


def _read_jsonl(folder: Path) -> Annotations:
    path = folder / JSONL
    if path.stat().st_size > _MAX_BYTES:
        raise ConfigError(f"{path}: {path.stat().st_size} bytes, over the limit of {_MAX_BYTES}")
    given: dict[str, dict[str, tuple[float, int]]] = {}
    for row, line in enumerate(path.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            answer = Answer.model_validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the line"
            raise ConfigError(f"{path}, row {row}: {where}: {first['msg']}") from None
        if answer.answer not in (0, 0.5, 1):
            raise ConfigError(f"{path}, row {row}: answer: expected 0, 0.5 or 1, got {answer.answer}")
        by = given.setdefault(answer.pair, {})
        earlier = by.get(answer.annotator)
        if earlier is not None and earlier[0] != answer.answer:
            raise ConfigError(
                f"{path}, rows {earlier[1]} and {row}: annotator {answer.annotator!r} answered both "
                f"{earlier[0]:g} and {answer.answer:g} on the pair {answer.pair!r}"
            )
        by[answer.annotator] = (float(answer.answer), row)
    if not given:
        raise ConfigError(f"{path}: no answers in it")
    files = _with_short_names(_images(folder))
    wanted = {
        f"{pair}{end}": next(iter(by.values()))[1] for pair, by in given.items() for end in ("_ori", "_rec")
    }
    missing = [f"row {number}: {name}" for name, number in wanted.items() if name not in files]
    if missing:
        raise ConfigError(f"{path}: no image for {_some(missing)}")
    several = [f"row {wanted[name]}: {name}" for name in wanted if files[name] is None]
    if several:
        raise ConfigError(
            f"{path}: several images of one name in different folders; give the path below {folder} "
            f"as the pair: {_some(several)}"
        )
    found = {name: _image(place) for name in wanted if (place := files[name]) is not None}
    names = tuple(given)
    means = [sum(value for value, _ in by.values()) / len(by) for by in given.values()]
    return Annotations(
        names,
        torch.stack([found[f"{name}_ori"] for name in names]),
        torch.stack([found[f"{name}_rec"] for name in names]),
        torch.tensor(means),
        torch.tensor([len(by) for by in given.values()]),
        torch.empty(0, 3, 32, 32, dtype=torch.uint8),
    )


def _root(folder: Path) -> Path:
    """Where the authors' folders ``ID`` and ``-ID`` are."""
    if (folder / FOLDERS).is_dir():
        return folder / FOLDERS
    inside = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    if any(path.name.startswith("-") or any(path.glob("*_ori.*")) for path in inside):
        return folder
    raise ConfigError(
        f"{folder}: expected {JSONL} or the folder {FOLDERS}/ or folders ID/ and -ID/ (the SemSim authors' "
        "layout), found none of them"
    )


def _read_folders(folder: Path, root: Path) -> Annotations:
    ids = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    ids = [name for name in ids if name != OTHERS]
    unknown = [name for name in ids if name.startswith("-") and name[1:] not in ids]
    if unknown:
        raise ConfigError(f"{root}: unrecognised reconstructions of unknown originals: {_some(unknown)}")
    names, originals, reconstructions, answers = [], [], [], []
    bare = []
    for name in (name for name in ids if not name.startswith("-")):
        files = _images(root / name)
        own = [stem for stem in files if stem.endswith("_ori")]
        if len(own) != 1:
            bare.append(f"{name}/ ({len(own)} files *_ori)")
            continue
        original = _image(files[own[0]])
        negative = _images(root / f"-{name}") if (root / f"-{name}").is_dir() else {}
        both = sorted((files.keys() - {own[0]}) & negative.keys())
        if both:
            raise ConfigError(f"{root}: in both {name}/ and -{name}/: {_some(both)}")
        for place, answer, found in ((name, 1.0, files), (f"-{name}", 0.0, negative)):
            for stem, path in sorted(found.items()):
                if not stem.endswith("_ori"):
                    names.append(f"{place}/{stem}")
                    originals.append(original)
                    reconstructions.append(_image(path))
                    answers.append(answer)
    if bare:
        raise ConfigError(f"{root}: expected one original *_ori in each folder: {_some(bare)}")
    if not names:
        raise ConfigError(f"{root}: no reconstructions in it")
    places = {folder / OTHERS, root / OTHERS}
    others = [_image(path) for place in sorted(places) for path in _images(place).values()]
    return Annotations(
        tuple(names),
        torch.stack(originals),
        torch.stack(reconstructions),
        torch.tensor(answers),
        torch.ones(len(names), dtype=torch.int64),
        torch.stack(others) if others else torch.empty(0, 3, 32, 32, dtype=torch.uint8),
    )


def _images(folder: Path) -> dict[str, Path]:
    """Image files of a folder and below, by path without suffix; two of one name are an error."""
    if not folder.is_dir():
        return {}
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in paths]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ConfigError(f"{folder}: several images of one name: {_some(sorted(twice))}")
    return dict(zip(names, paths, strict=True))


def _with_short_names(files: Mapping[str, Path]) -> dict[str, Path | None]:
    """The files also by name without folders; None where several have it."""
    short: dict[str, Path | None] = {}
    for path in files.values():
        short[path.stem] = None if path.stem in short else path
    return {**short, **files}


def _image(path: Path) -> Tensor:
    """One file, of which nothing is dropped unseen but size: see `exact_pixels`."""
    if path.stat().st_size > _MAX_IMAGE_BYTES:
        raise ConfigError(f"{path}: over the limit of {_MAX_IMAGE_BYTES} bytes for one image")
    image = exact_pixels(path.read_bytes(), str(path))
    if not bool(((image >= 0) & (image <= 1)).all()):
        raise ConfigError(f"{path}: expected values in [0, 1], found NaN or values outside")
    return small_uint8(image.expand(3, -1, -1))


def _some(rows: Sequence[str]) -> str:
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return ", ".join(rows[:_SHOWN]) + more
