"""Which file belongs to which, and what cannot be compared."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from fl_audit.core.errors import ConfigError
from fl_audit.faithfulness import PairFiles, find_pairs, read_pair
from tests.faithfulness.pictures import pixels, png16, save


def names(originals: Path, reconstructions: Path) -> dict[str, tuple[str, str]]:
    found = find_pairs(originals, reconstructions).pairs
    return {
        pair.name: (
            pair.original.relative_to(originals).as_posix(),
            pair.reconstruction.relative_to(reconstructions).as_posix(),
        )
        for pair in found
    }


def fill(folder: Path, *files: str) -> Path:
    for number, name in enumerate(files):
        save(folder / name, pixels(number))
    return folder


def test_marks_in_one_folder(tmp_path: Path) -> None:
    both = fill(
        tmp_path, "a_ori.png", "a_rec.png", "sub/b_ori.png", "sub/b_rec.jpg", "overview.png", ".c_ori.png"
    )
    (both / "labels.json").write_text("{}")
    assert names(both, both) == {"a": ("a_ori.png", "a_rec.png"), "sub/b": ("sub/b_ori.png", "sub/b_rec.jpg")}
    found = find_pairs(both, both)
    assert found.left_out == (both / "overview.png",)
    assert not found.with_itself


def test_marks_in_two_folders(tmp_path: Path) -> None:
    left, right = fill(tmp_path / "l", "a_ori.png"), fill(tmp_path / "r", "a_rec.png")
    assert names(left, right) == {"a": ("a_ori.png", "a_rec.png")}
    save(left / "a_rec.png", pixels(5))
    save(right / "a_ori.png", pixels(6))
    assert names(left, right) == {"a": ("a_ori.png", "a_rec.png")}
    assert find_pairs(left, right).left_out == ()


def test_equal_names(tmp_path: Path) -> None:
    left, right = fill(tmp_path / "l", "a.png", "b/c.bmp"), fill(tmp_path / "r", "a.jpg", "b/c.png")
    assert names(left, right) == {"a": ("a.png", "a.jpg"), "b/c": ("b/c.bmp", "b/c.png")}
    assert not find_pairs(left, right).with_itself


def test_a_mark_on_one_side_only(tmp_path: Path) -> None:
    left, right = fill(tmp_path / "l", "a_ori.png"), fill(tmp_path / "r", "a.png")
    assert names(left, right) == {"a": ("a_ori.png", "a.png")}
    assert names(right, fill(tmp_path / "s", "a_rec.png")) == {"a": ("a.png", "a_rec.png")}


@pytest.mark.parametrize("files", [("a.png", "b.png"), ("a_ori.png", "b_ori.png"), ("a_rec.png",)])
def test_a_folder_with_itself(files: tuple[str, ...], tmp_path: Path) -> None:
    folder = fill(tmp_path, *files)
    found = find_pairs(folder, folder)
    assert found.with_itself
    assert len(found.pairs) == len(files)


@pytest.mark.parametrize(
    ("left", "right", "words"),
    [
        (("a_ori.png", "b_ori.png"), ("a_rec.png",), ["b_ori.png has no reconstruction"]),
        (("a_ori.png",), ("a_rec.png", "b_rec.png"), ["b_rec.png has no original"]),
        (("a.png", "b.png"), ("a.png", "c.png"), ["b.png has no reconstruction", "c.png has no original"]),
        (("a.png", "a.bmp"), ("a.png",), ["a.png", "a.bmp", "same name"]),
        (("a.png",), ("b.png",), ["a.png has no", "b.png has no", "_ori.png"]),
        (tuple(f"{n}.png" for n in range(30)), ("0.png",), ["and 19 more"]),
    ],
)
def test_no_partner(left: tuple[str, ...], right: tuple[str, ...], words: list[str], tmp_path: Path) -> None:
    one, two = fill(tmp_path / "l", *left), fill(tmp_path / "r", *right)
    with pytest.raises(ConfigError) as caught:
        find_pairs(one, two)
    for word in words:
        assert word in str(caught.value)


def test_no_images_at_all(tmp_path: Path) -> None:
    folder = fill(tmp_path / "l", "a.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"nowhere: expected a folder of images, found nothing"):
        find_pairs(folder, tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"a\.png: expected a folder of images, found a file"):
        find_pairs(folder / "a.png", folder)
    with pytest.raises(ConfigError, match=r"empty: no images in it"):
        find_pairs(folder, tmp_path / "empty")


def read(original: Path, reconstruction: Path) -> tuple[torch.Tensor, torch.Tensor]:
    return read_pair(PairFiles("x", original, reconstruction))


def test_grey_beside_colour(tmp_path: Path) -> None:
    grey = pixels(0, channels=1)
    colour = save(tmp_path / "c.png", np.stack([grey] * 3, -1))
    x, y = read(save(tmp_path / "g.png", grey), colour)
    assert x.shape == (3, 16, 16)
    assert torch.equal(x, y)
    x, y = read(tmp_path / "g.png", tmp_path / "g.png")
    assert x.shape == (1, 16, 16)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "RGBA", "LA", "I;16"])
def test_kinds_of_images_that_are_compared_right(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(pixels(3)).quantize(16).convert("RGB")
    if mode == "I;16":
        saved = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
        expected = image.convert("L")
    else:
        saved = image.quantize(256) if mode == "P" else image.convert(mode)
        expected = image if mode in ("P", "CMYK", "RGBA") else image.convert(mode.removesuffix("A"))
    saved.save(tmp_path / "x.tif")
    expected.save(tmp_path / "y.png")
    x, y = read(tmp_path / "x.tif", tmp_path / "y.png")
    assert torch.allclose(x, y, atol=1e-7)
    assert x.dtype == torch.float32
    assert len(x) == (1 if mode in ("1", "L", "LA", "I;16") else 3)


def bad(kind: str) -> tuple[bytes, str]:
    image = Image.fromarray(pixels(1))
    buffer = io.BytesIO()
    if kind == "truncated":
        image.save(buffer, "PNG")
        return buffer.getvalue()[:-40], "not a whole image file"
    if kind == "text":
        return b"not an image", "not an image of a known format"
    if kind == "transparent":
        image.putalpha(Image.fromarray(pixels(2, channels=1)))
        image.save(buffer, "PNG")
        return buffer.getvalue(), "transparent pixels"
    if kind == "transparent palette":
        image.quantize(8).save(buffer, "PNG", transparency=0)
        return buffer.getvalue(), "transparent pixels"
    if kind == "16-bit colour":
        return png16(pixels(1).astype(np.uint16) * 257), "colour of 16 bits a channel"
    if kind == "16-bit colour TIFF":
        tifffile.imwrite(buffer, pixels(1).astype(np.uint16) * 257, photometric="rgb")
        return buffer.getvalue(), "colour of 16 bits a channel"
    if kind == "integers":
        Image.fromarray(np.zeros((16, 16), dtype=np.int32)).save(buffer, "TIFF")
        return buffer.getvalue(), "no defined range"
    assert kind == "animation"
    image.save(buffer, "GIF", save_all=True, append_images=[Image.fromarray(pixels(9))])
    return buffer.getvalue(), "holds 2 frames"


@pytest.mark.parametrize(
    "kind",
    [
        "truncated",
        "text",
        "transparent",
        "transparent palette",
        "16-bit colour",
        "16-bit colour TIFF",
        "integers",
        "animation",
    ],
)
def test_what_cannot_be_compared_names_the_file(kind: str, tmp_path: Path) -> None:
    data, words = bad(kind)
    (tmp_path / "x_rec.png").write_bytes(data)
    with pytest.raises(ConfigError, match=rf"x_rec\.png: .*{words}"):
        read(save(tmp_path / "x_ori.png", pixels(0)), tmp_path / "x_rec.png")


def test_floats_are_taken_as_they_are(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    broken = values.copy()
    broken[3, 4] = np.nan
    for name, image in (("a", values), ("b", broken), ("c", 255 * values)):
        Image.fromarray(image).save(tmp_path / f"{name}.tif")
    x, y = read(tmp_path / "a.tif", tmp_path / "b.tif")
    assert torch.equal(x[0], torch.from_numpy(values))
    assert y.isnan().sum() == 1
    for name in "bc":
        with pytest.raises(ConfigError, match=rf"{name}\.tif: expected values in \[0, 1\]"):
            read(tmp_path / f"{name}.tif", tmp_path / "a.tif")


def test_unequal_sizes_name_both_files(tmp_path: Path) -> None:
    one, two = save(tmp_path / "a.png", pixels(0)), save(tmp_path / "b.png", pixels(0, side=32))
    with pytest.raises(ConfigError, match=r"b\.png: 32x32 pixels, its original .*a\.png has 16x16"):
        read(one, two)


def test_accents_are_the_same_however_unicode_writes_them(tmp_path: Path) -> None:
    composed, apart = "\u00e9t\u00e9", "e\u0301te\u0301"
    left, right = fill(tmp_path / "l", f"{composed}_ori.png"), fill(tmp_path / "r", f"{apart}_rec.png")
    assert list(names(left, right)) == [composed]
    left, right = fill(tmp_path / "m", f"{apart}.png", "\u56fe.png"), fill(tmp_path / "s", "\u56fe.png")
    save(right / f"{composed}.png", pixels(0))
    assert list(names(left, right)) == [composed, "\u56fe"]
    with pytest.raises(ConfigError, match="has the same name"):
        find_pairs(fill(tmp_path / "n", f"{composed}.png", f"{apart}.png"), right)


def test_a_header_that_claims_a_huge_image_is_refused_before_decoding(tmp_path: Path) -> None:
    huge = bytearray(png16(pixels(1).astype(np.uint16)))
    for side, words in ((8000, "8000x8000 pixels, over the limit"), (60_000, "far over the limit")):
        chunk = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        huge[12:33] = chunk + struct.pack(">I", zlib.crc32(chunk))
        (tmp_path / "huge.png").write_bytes(bytes(huge))
        with pytest.raises(ConfigError, match=rf"huge\.png: {words}"):
            read(tmp_path / "huge.png", tmp_path / "huge.png")
