"""Answers of people: both layouts, several annotators, errors that name the rows; training on them."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr

from fl_audit.cli.main import _run
from fl_audit.core.errors import ConfigError
from fl_audit.semsim import NAME, distance, load, packaged
from fl_audit.semsim.annotations import read_annotations


def picture(path: Path, seed: int, spoil: float = 0.0) -> None:
    """A smooth random picture; ``spoil`` of it replaced by noise."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 255, (4, 4, 3), dtype=np.uint8)).resize((32, 32), 3)
    noise = np.random.default_rng(seed + 1000).integers(0, 255, (32, 32, 3))
    pixels = (1 - spoil) * np.asarray(coarse, dtype=np.float64) + spoil * noise
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def jsonl(folder: Path, rows: Sequence[object], pairs: int = 4) -> Path:
    for number in range(pairs):
        picture(folder / f"p{number}_ori.png", number)
        picture(folder / f"p{number}_rec.png", number, 0.1 if number % 2 == 0 else 0.95)
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    (folder / "annotations.jsonl").write_text(text)
    return folder


def row(pair: str, answer: object, annotator: str = "a") -> dict[str, object]:
    return {"pair": pair, "answer": answer, "annotator": annotator}


def test_several_annotators_are_averaged(tmp_path: Path) -> None:
    rows = [
        row("p0", 1),
        row("p0", 0.5, "b"),
        row("p1", 0),
        row("p1", 0, "b"),
        row("p1", 0, "b"),
        row("p2", 1),
    ]
    found = read_annotations(jsonl(tmp_path, rows))
    assert found.names == ("p0", "p1", "p2")
    assert found.answers.tolist() == [0.75, 0.0, 1.0]
    assert found.annotators.tolist() == [2, 2, 1]
    expected = np.asarray(Image.open(tmp_path / "p1_rec.png")).transpose(2, 0, 1)
    assert np.array_equal(found.reconstructions[1].numpy(), expected)


def test_the_authors_layout(tmp_path: Path) -> None:
    root = tmp_path / "train_with_ori"
    picture(root / "7" / "7_ori.png", 7)
    picture(root / "7" / "a.png", 7, 0.1)
    picture(root / "-7" / "b.png", 7, 0.9)
    picture(root / "-7" / "c.png", 7, 0.95)
    picture(tmp_path / "others" / "x.png", 50)
    found = read_annotations(tmp_path)
    assert dict(zip(found.names, found.answers.tolist(), strict=True)) == {
        "7/a": 1.0,
        "-7/b": 0.0,
        "-7/c": 0.0,
    }
    assert torch.equal(found.originals[0], found.originals[2])
    assert len(found.others) == 1


def test_the_authors_layout_without_its_outer_folder(tmp_path: Path) -> None:
    picture(tmp_path / "7" / "7_ori.png", 7)
    picture(tmp_path / "7" / "a.png", 7, 0.1)
    picture(tmp_path / "-7" / "b.png", 7, 0.9)
    picture(tmp_path / "others" / "x.png", 50)
    (tmp_path / ".cache").mkdir()
    found = read_annotations(tmp_path)
    assert (found.names, found.answers.tolist()) == (("7/a", "-7/b"), [1.0, 0.0])
    assert len(found.others) == 1


def test_pairs_in_sub_folders_are_called_by_their_path(tmp_path: Path) -> None:
    for place in ("x", "y"):
        for number in range(2):
            picture(tmp_path / place / f"p{number}_ori.png", number)
            picture(tmp_path / place / f"p{number}_rec.png", number, 0.5)
    picture(tmp_path / "y" / "only_ori.png", 9)
    picture(tmp_path / "y" / "only_rec.png", 9, 0.5)
    rows = [row("x/p0", 1), row("y/p0", 0), row("only", 1)]
    (tmp_path / "annotations.jsonl").write_text("\ufeff" + "\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert read_annotations(tmp_path).names == ("x/p0", "y/p0", "only")
    rows.append({"id": "p1", "label": 0})
    (tmp_path / "annotations.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ConfigError, match="several images of one name .* row 4: p1_ori, row 4: p1_rec"):
        read_annotations(tmp_path)


def test_images_of_which_something_would_be_dropped_are_named(tmp_path: Path) -> None:
    folder = jsonl(tmp_path, [row("p0", 1), row("p1", 0)])
    with Image.open(folder / "p1_rec.png") as image:
        image.putalpha(100)
        image.save(folder / "p1_rec.png")
    with pytest.raises(ConfigError, match=r"p1_rec\.png: has transparent pixels"):
        read_annotations(folder)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row("p0", 1), row("p2", 1)], r"all 2 pairs have the answers \[1.0\]: p0, p2"),
        ([row("p0", 1), row("p1", 0), row("nobody", 0)], "no image for row 3: nobody_ori, row 3: nobody_rec"),
        (
            [row("p0", 1), row("p1", 0), row("p0", 0)],
            "rows 1 and 3: annotator 'a' answered both 1 and 0 .* 'p0'",
        ),
        ([row("p0", 1), row("p1", 0.25)], "row 2: answer: expected 0, 0.5 or 1, got 0.25"),
        ([row("p0", 1), row("p1", "no")], "row 2: answer"),
        ([row("p0", 1), '{"pair": "p1"'], "row 2: the line: "),
        ([row("p0", 1), {"pair": "p1", "answer": 0, "who": "b"}], "row 2: who"),
        ([row("p0", True), row("p1", 0)], "row 1: answer"),
        ([], "no answers in it"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, rows: list[object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_annotations(jsonl(tmp_path, rows))


def test_bad_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected annotations.jsonl or the folder train_with_ori/"):
        read_annotations(tmp_path)
    root = tmp_path / "train_with_ori"
    picture(root / "7" / "a.png", 1)
    picture(root / "-7" / "b.png", 2)
    with pytest.raises(ConfigError, match=r"one original \*_ori in each folder: 7/ \(0 files"):
        read_annotations(tmp_path)
    picture(root / "7" / "7_ori.png", 3)
    picture(root / "7" / "b.png", 4)
    with pytest.raises(ConfigError, match="in both 7/ and -7/: b"):
        read_annotations(tmp_path)
    (root / "7" / "b.png").write_bytes(b"\x89PNG broken")
    (root / "-7" / "b.png").rename(root / "-7" / "d.png")
    with pytest.raises(ConfigError, match=r"b\.png"):
        read_annotations(tmp_path)
    picture(root / "-9" / "z.png", 2)
    with pytest.raises(ConfigError, match="unknown originals: -9"):
        read_annotations(tmp_path)


def test_training_and_measuring_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = 24
    folder = jsonl(tmp_path / "answers", [row(f"p{n}", 1 - n % 2) for n in range(pairs)], pairs)
    out = tmp_path / "mine.safetensors"
    command = ["semsim", "train", "--annotations", str(folder), "--steps", "3", "--out", str(out)]
    assert _run(command) == 0
    said = capsys.readouterr().out
    assert "packaged weights:" in said
    first = load(out)
    assert first.sha256 in said
    assert _run([*command[:-1], str(tmp_path / "again.safetensors")]) == 0
    assert load(tmp_path / "again.safetensors").sha256 == first.sha256
    capsys.readouterr()
    assert _run(["semsim", "eval", "--annotations", str(folder), "--weights", str(out)]) == 0
    assert f"{pairs} pairs: Spearman" in capsys.readouterr().out


def test_weights_are_held_against_answers_beside_other_metrics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = 12
    folder = jsonl(tmp_path / "answers", [row(f"p{n}", 1 - n % 2) for n in range(pairs)], pairs)
    written = tmp_path / "figures.json"
    assert _run(["semsim", "eval", "--annotations", str(folder), "--json", str(written)]) == 0
    assert "Agreement with the labels" in capsys.readouterr().out
    content = json.loads(written.read_text(encoding="utf-8"))
    assert content["sha256"] == packaged().sha256
    entries = {entry["metric"]: entry for entry in content["faithfulness"]}
    assert list(entries) == [NAME, "ssim", "psnr"]
    found = read_annotations(folder)
    distances = distance(packaged().network, found.originals / 255, found.reconstructions / 255)
    expected = spearmanr(-distances, found.answers).statistic
    assert entries[NAME]["spearman"]["value"] == pytest.approx(expected, abs=1e-5)
    assert entries[NAME]["spearman"]["low"] <= expected <= entries[NAME]["spearman"]["high"]
    assert entries[NAME]["auc"]["value"] is not None
    assert _run(["semsim", "eval", "--annotations", str(folder), "--json", str(tmp_path)]) == 2
    assert "expected a file to write" in capsys.readouterr().err


def test_nothing_is_written_where_training_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = jsonl(tmp_path / "answers", [row("p0", 1), row("p2", 1)])
    out = tmp_path / "mine.safetensors"
    assert _run(["semsim", "train", "--annotations", str(folder), "--out", str(out)]) == 2
    assert "all 2 pairs have the answers" in capsys.readouterr().err
    assert _run(["semsim", "train", "--annotations", str(folder), "--backbone", "vgg"]) == 2
    jsonl(folder, [row("p0", 1), row("p1", 0)])
    assert _run(["semsim", "train", "--annotations", str(folder), "--out", str(out)]) == 2
    assert "annotate more originals" in capsys.readouterr().err
    assert not out.exists()


def test_few_answers_are_split_so_that_both_kinds_are_on_both_sides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One pair of each original: a fifth of six is one, of which no draw holds both answers."""
    folder = jsonl(tmp_path / "answers", [row(f"p{n}", 1 - n % 2) for n in range(6)], 6)
    for seed in range(3):
        out = tmp_path / f"{seed}.safetensors"
        arguments = ["semsim", "train", "--annotations", str(folder), "--steps", "1", "--seed", str(seed)]
        assert _run([*arguments, "--out", str(out)]) == 0
        assert "packaged weights: 2 pairs" in capsys.readouterr().out
    assert _run([*arguments, "--out", str(tmp_path)]) == 2
    assert "--out" in capsys.readouterr().err
