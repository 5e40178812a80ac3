import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fl_audit.core.errors import ConfigError
from fl_audit.data import datasets
from fl_audit.data.folder import ImageFolder


def png(colour: tuple[int, ...] | int, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, colour).save(buffer, format="PNG")
    return buffer.getvalue()


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


PETS = {
    "dog/b.png": png((0, 0, 255)),
    "dog/a.png": png((255, 0, 0)),
    "cat/10.png": png((0, 255, 0)),
    "cat/notes.txt": b"not an image",
    "cat/.hidden.png": b"not an image",
    "__MACOSX/cat/x.png": b"not an image",
    ".git/x/y.png": b"not an image",
}


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    data = datasets.create(str(write(tmp_path / "pets", PETS))).load()
    assert data.classes == ("cat", "dog")
    assert data.labels.tolist() == [0, 1, 1]
    assert data.images[:, :, 0, 0].tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert data.title == "pets"


@pytest.mark.parametrize("inner", ["", "train", "deep/train/"])
def test_a_zip_equals_its_folder(tmp_path: Path, inner: str) -> None:
    folder = datasets.create(str(write(tmp_path / "pets", PETS))).load()
    prefix = inner.strip("/") + "/" if inner else ""
    path = write_zip(tmp_path / "P.ZIP", {prefix + name: data for name, data in PETS.items()})
    data = datasets.create(f"{path}:{inner}" if inner else str(path)).load()
    assert torch.equal(data.images, folder.images)
    assert torch.equal(data.labels, folder.labels)
    assert data.classes == folder.classes
    assert str(tmp_path) not in data.title


def test_parameters_follow_the_path(tmp_path: Path) -> None:
    root = write(tmp_path / "pets", PETS)
    for spec in (f"{root},image_size=16,per_class=1", f"folder:{root},image_size=16,per_class=1"):
        data = datasets.create(spec).load()
        assert data.images.shape == (2, 3, 16, 16)
        assert data.images[1, :, 0, 0].tolist() == [1, 0, 0]
    odd = write(tmp_path / "a,b=c", PETS)
    assert len(datasets.create(str(odd)).load().images) == 3


def test_images_are_cropped_to_their_centre(tmp_path: Path) -> None:
    pixels = np.zeros((16, 48, 3), dtype=np.uint8)
    pixels[:, 16:32] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    root = write(tmp_path / "set", {"c/wide.png": (tmp_path / "wide.png").read_bytes(), "c/z.png": png(0)})
    data = ImageFolder(path=str(root), image_size=8).load()
    assert data.images.shape == (2, 3, 8, 8)
    assert float(data.images[0].min()) == 1


def test_channels(tmp_path: Path) -> None:
    grey = write(tmp_path / "grey", {"a/1.png": png(51, mode="L"), "a/2.png": png(1, mode="1")}).as_posix()
    assert datasets.create(grey).load().images[:, :, 0, 0].tolist() == [[pytest.approx(0.2)], [1]]
    mixed = {"a/1.png": png(51, mode="L"), "a/2.png": png((255, 0, 0)), "a/3.png": png(0, mode="L")}
    data = datasets.create(write(tmp_path / "mixed", mixed).as_posix()).load()
    assert data.images[:, :, 0, 0].tolist() == [[pytest.approx(0.2)] * 3, [1, 0, 0], [0, 0, 0]]


def test_unusual_pixels(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), 32768, dtype=np.uint16)).save(buffer, format="PNG")
    deep = write(tmp_path / "deep", {"a/1.png": buffer.getvalue()})
    assert float(datasets.create(str(deep)).load().images.mean()) == pytest.approx(32768 / 65535)
    buffer = io.BytesIO()
    Image.new("CMYK", (8, 8), (0, 0, 0, 255)).save(buffer, format="TIFF")
    ink = write(tmp_path / "ink", {"a/1.tif": buffer.getvalue()})
    assert float(datasets.create(str(ink)).load().images.max()) == 0
    buffer = io.BytesIO()
    Image.new("F", (8, 8), 0.5).save(buffer, format="TIFF")
    with pytest.raises(ConfigError, match=r"a/1.tif.*mode 'F'"):
        datasets.create(str(write(tmp_path / "f", {"a/1.tif": buffer.getvalue()}))).load()


def test_different_sizes_name_both_files(tmp_path: Path) -> None:
    root = write(tmp_path / "set", {"a/1.png": png(0), "a/2.png": png(0, (9, 8))})
    with pytest.raises(ConfigError, match=r"a/1.png is 8x8, .*a/2.png is 9x8.*image_size=32"):
        datasets.create(str(root)).load()


def other_format() -> bytes:
    """An image that Pillow can read but that is none of ours: more decoders are more to attack."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, format="SGI")
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG whose header promises 30000 x 30000 pixels."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a/1.png": png(0), "a/2.png": png((9, 9, 9), (64, 64))[:60]}, "a/2.png: not a whole image"),
        ({"a/1.png": b""}, "a/1.png: not an image"),
        ({"a/1.jpg": b"%!PS-Adobe-3.0 EPSF-3.0"}, "a/1.jpg: not an image"),
        ({"a/1.png": other_format()}, "a/1.png: not an image of a known format"),
        ({"a/1.png": bomb()}, "a/1.png: .*30000x30000|a/1.png: far over the limit of 50,000,000 pixels"),
        ({"1.png": png(0)}, "1.png lies outside any class folder"),
        ({"train/a/1.png": png(0)}, r"lies too deep.*train'"),
        ({"a/1.txt": b""}, "no images"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_bad_trees(tmp_path: Path, files: dict[str, bytes], words: str, packed: bool) -> None:
    place = write_zip(tmp_path / "s.zip", files) if packed else write(tmp_path / "s", files)
    with pytest.raises(ConfigError, match=words):
        datasets.create(str(place)).load()


def test_bad_zips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no.zip").write_bytes(b"no zip")
    with pytest.raises(ConfigError, match="not a whole zip"):
        datasets.create(str(tmp_path / "no.zip")).load()
    with pytest.raises(ConfigError, match="no such folder or zip"):
        datasets.create(str(tmp_path / "none.zip:a")).load()
    path = write_zip(tmp_path / "p.zip", {f"train/{name}": data for name, data in PETS.items()})
    with pytest.raises(ConfigError, match="no folder 'tran' .*train"):
        datasets.create(f"{path}:tran").load()
    torn = bytearray(write_zip(tmp_path / "t.zip", {"a/1.png": png(0)}).read_bytes())
    torn[60] ^= 0xFF
    (tmp_path / "t.zip").write_bytes(torn)
    with pytest.raises(ConfigError, match=r"t.zip:a/1.png: cannot be read from the zip .*CRC"):
        datasets.create(str(tmp_path / "t.zip")).load()
    locked = bytearray(write_zip(tmp_path / "l.zip", {"a/1.png": png(0)}).read_bytes())
    locked[6] |= 1  # the flag "encrypted", in the file's header and in the directory
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "l.zip").write_bytes(locked)
    with pytest.raises(ConfigError, match=r"l.zip:a/1.png: cannot be read from the zip .*encrypted"):
        datasets.create(str(tmp_path / "l.zip")).load()
    monkeypatch.setattr("fl_audit.data._files.MAX_FILE_BYTES", 10)
    with pytest.raises(ConfigError, match=r"train/cat/10.png: \d+ bytes, over the limit of 10"):
        datasets.create(f"{path}:train").load()


def test_too_much_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fl_audit.data._decode.MAX_BYTES", 1000)
    with pytest.raises(ConfigError, match=r"over the limit.*per_class=200"):
        datasets.create(str(write(tmp_path / "pets", PETS))).load()


def test_a_path_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder or zip"):
        datasets.create("nowhere/images").load()
    with pytest.raises(ConfigError, match="Did you mean 'per_class'"):
        datasets.create(f"{tmp_path},per_clas=3")
    with pytest.raises(ConfigError, match="image_size: .*greater than or equal to 8"):
        datasets.create(f"{tmp_path},image_size=2")


def test_cifar_as_a_zip(image_data: Path) -> None:
    data = datasets.create(f"{image_data / 'cifar10-jpeg.zip'}:cifar10/train,per_class=20").load()
    assert data.images.shape == (200, 3, 32, 32)
    assert torch.bincount(data.labels).tolist() == [20] * 10
    assert data.classes[:3] == ("airplane", "automobile", "bird")
