"""The recipe end to end on two tiny data sets: weights, card, repeatability, and what is missing."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fl_audit.semsim import load
from fl_audit.semsim.recipe import judged_pairs, main


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


def test_weights_and_card_come_out_and_again(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = data / "answers.json"
    spoken = {"seed": 3, "batches": 1, "pairs": list(range(0, 120, 4)), "answers": ["1", "4", "02"] * 10}
    answers.write_text(json.dumps({"rounds": [spoken]}))
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
            "--answers",
            str(answers),
        ]
        assert main([*arguments, "--threads", "1"]) == 0
        outputs.append(capsys.readouterr().out)
    first, second = (load(data / name / "semsim-v5.safetensors") for name in ("one", "two"))
    assert first.sha256 == second.sha256
    assert first.sha256 in outputs[0]
    card = (data / "one" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert first.sha256 in card
    assert "No person did" in card
    assert "| held-out answers | " in card
    assert "| judged plain-x | 6 |" in card
    assert "4, 4 and 2 steps of 64 originals" in card
    assert "Real reconstructions in training: none" in card


def test_missing_data_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path)]) == 1
    assert "expected the data set CIFAR-10 (JPEG), found no such file" in capsys.readouterr().err
    assert judged_pairs(tmp_path / "judged-pairs.zip") == {}
