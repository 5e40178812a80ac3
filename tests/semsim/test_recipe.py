"""The recipe end to end on two tiny data sets: weights, card, repeatability, and what is missing."""

import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fl_audit.semsim import judgements, load, pairs, recipe
from fl_audit.semsim.judged import judged_pairs
from fl_audit.semsim.judgements import Judgements, Round
from fl_audit.semsim.pictures import Pictures
from fl_audit.semsim.recipe import Lines, main
from fl_audit.semsim.train import Batch, train


def picture(seed: int, side: int = 32) -> bytes:
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 255, (6, 6, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize((side, side), Image.Resampling.BICUBIC).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, folder, side in (
        ("cifar10-jpeg", "cifar10/train", 32),
        ("caltech101-64", "caltech101-64", 64),
    ):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            for number in range(60):
                archive.writestr(f"{folder}/class{number % 3}/{number}.png", picture(number + side, side))
    with zipfile.ZipFile(tmp_path / "judged-pairs.zip", "w") as archive:
        pairs = []
        for number in range(6):
            archive.writestr(f"judged-pairs/plain-x-{number}_ori.png", picture(number + 32))
            archive.writestr(f"judged-pairs/plain-x-{number}_rec.png", picture(number + 32 + number % 2))
            pairs.append({"id": f"plain-x-{number}", "label": 1 - number % 2})
        archive.writestr("judged-pairs/labels.json", json.dumps({"pairs": pairs}))
    return tmp_path


SPOKEN = [Round(seed=3, batches=1, pairs=list(range(0, 120, 4)), answers=["1", "4", "02"] * 10)]
"""Answers about pairs of the tiny data sets, in place of the packaged ones."""


def test_weights_and_card_come_out_and_again(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "read", lambda: SPOKEN)
    outputs = []
    for out in (data / "one", data / "two"):
        arguments = [
            "--data",
            str(data),
            "--out",
            str(out),
            "--backbone",
            "lenet",
            "--scale",
            "0.0002",
        ]
        assert main([*arguments, "--threads", "1"]) == 0
        outputs.append(capsys.readouterr().out)
    first, second = (load(data / name / "semsim-v8.safetensors") for name in ("one", "two"))
    assert first.sha256 == second.sha256
    assert first.sha256 in outputs[0]
    card = (data / "one" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert first.sha256 in card
    assert "No person did" in card
    assert "| held-out answers | " in card
    assert "| judged plain-x | 6 |" in card
    assert "Real reconstructions in training: none" in card
    # Nothing that was found out about the packaged weights, or is so of their backbone alone.
    assert "\n1 steps, of 64 originals" in card
    assert "Not the weights that come with fl-audit" in card
    assert "recipe --data DIR --backbone lenet --scale 0.0002 --seed 0\n" in card
    assert "reader" not in card
    assert "They were looked at" not in card


def test_a_data_set_is_left_out_and_measured_on(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "read", lambda: SPOKEN)
    drawn: list[list[str]] = []
    asked: list[Judgements] = []

    def batches(sets: Sequence[Pictures], *arguments: Any) -> Iterator[Batch]:
        drawn.append([part.name for part in sets])
        return pairs.batches(sets, *arguments)

    def answered(judged: Judgements, generator: torch.Generator) -> Iterator[Batch]:
        asked.append(judged)
        return pairs.answered(judged, generator)

    monkeypatch.setattr(recipe, "batches", batches)
    monkeypatch.setattr(recipe, "answered", answered)
    arguments = ["--data", str(data), "--out", str(data / "out"), "--backbone", "lenet", "--scale", "0.0002"]
    assert main([*arguments, "--without", "Caltech-101"]) == 0
    assert drawn == [["CIFAR-10 (JPEG)", "drawings"], ["Caltech-101"]]  # trained on, and measured on
    assert set(asked[0].picture_set.tolist()) == {0}
    assert " --without Caltech-101\n" in (data / "out" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert main([*arguments, "--without", "MNIST"]) == 2
    assert "'MNIST', expected one of 'CIFAR-10 (JPEG)', 'Caltech-101'" in capsys.readouterr().err
    assert main([*arguments, "--without", "Caltech-101", "--reconstructions", str(data)]) == 2
    assert "leave out --reconstructions" in capsys.readouterr().err


def test_what_was_trained_before_an_interrupt_is_kept(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "read", lambda: SPOKEN)
    asked: list[int] = []

    def interrupted(*arguments: Any, seed: int, **others: Any) -> nn.Module:
        asked.append(seed)
        if asked == [4, 5]:
            raise KeyboardInterrupt
        return train(*arguments, seed=seed, **others)

    monkeypatch.setattr(recipe, "train", interrupted)
    out = data / "out"
    arguments = ["--data", str(data), "--out", str(out), "--scale", "0.0002", "--seed", "2", "--threads", "1"]
    assert main(arguments) == 130
    assert "the same command goes on" in capsys.readouterr().err
    (kept,) = out.iterdir()
    first = load(kept, backbone="lite").network.state_dict()
    assert main(arguments) == 0
    assert asked == [4, 5, 5]
    assert "training 1 of 1, step 1 of 1" in capsys.readouterr().err
    assert sorted(path.name for path in out.iterdir()) == ["MODEL_CARD.md", "semsim-v8.safetensors"]
    both = load(out / "semsim-v8.safetensors", backbone="twin").network.state_dict()
    assert all(torch.equal(both[name], value) for name, value in first.items())
    assert not torch.equal(both["readers.0.head.0.weight"], both["readers.1.head.0.weight"])


def test_lines_say_how_long_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    now = iter([0.0, 100.0, 160.0, 200.0, 320.0])
    lines = Lines(2, lambda: next(now))
    for _ in range(2):
        lines.begin("SemSim")
        for step in (49, 50):
            lines.step(step, 100, 0.5)
        lines.advance()
    assert capsys.readouterr().err.splitlines() == [
        "training 1 of 2, step 50 of 100, loss 0.5000, about 3 min to go",
        "training 2 of 2, step 50 of 100, loss 0.5000, about 2 min to go",
    ]


def test_missing_data_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path)]) == 1
    assert "expected the data set CIFAR-10 (JPEG), found no such file" in capsys.readouterr().err
    assert judged_pairs(tmp_path / "judged-pairs.zip") == {}


def test_answers_about_other_pictures_are_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (main, judgements.main):
        assert command(["--data", str(data)]) == 2
        assert "these are not the pictures that were judged" in capsys.readouterr().err


def test_the_oracle_is_fitted_again(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judgements, "read", lambda: SPOKEN)
    outs = [data / name for name in ("one.safetensors", "two.safetensors")]
    for out in outs:
        assert judgements.main(["--data", str(data), "--out", str(out), "--steps", "20"]) == 0
        assert "fitted to 2" in capsys.readouterr().out
    assert outs[0].read_bytes() == outs[1].read_bytes()
    assert judgements.main(["--data", str(data / "none")]) == 1
    assert "found no such file" in capsys.readouterr().err
