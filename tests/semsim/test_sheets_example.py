"""examples/semsim_sheets.py draws pairs with what was answered."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fl_audit.semsim.judgements import Round, make_pairs
from fl_audit.semsim.pictures import Pictures


def test_sheets_show_the_pairs_beside_their_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "examples")
    script = importlib.import_module("semsim_sheets")
    coarse = torch.rand(2, 20, 3, 6, 6, generator=torch.Generator().manual_seed(2))
    large = [torch.nn.functional.interpolate(part, (32, 32), mode="bicubic").clamp(0, 1) for part in coarse]
    sets = [Pictures(str(n), (part * 255).byte(), torch.arange(20)) for n, part in enumerate(large)]
    said = Round(seed=4, batches=1, pairs=list(range(10, 40)), answers=["0", "12", "4"] * 10)
    monkeypatch.setattr(script, "read", lambda: [said])
    monkeypatch.setattr(script, "picture_sets", lambda _: (sets, sets))
    monkeypatch.setattr("sys.argv", ["sheets", "--data", "none", "--out", str(tmp_path), "--sheets", "2"])
    assert script.main() == 0
    found = json.loads((tmp_path / "answers.json").read_text())
    assert [len(found[name]) for name in ("sheet0", "sheet1")] == [25, 5]
    shown = [entry for name in found for entry in found[name]]
    assert sorted(entry["pair"] for entry in shown) == said.pairs
    assert [entry["pair"] for entry in shown] != said.pairs, "in no order that gives the answer away"
    assert all(said.answers[said.pairs.index(entry["pair"])] == entry["answer"] for entry in shown)
    first = said.pairs.index(shown[0]["pair"])
    picture = make_pairs(sets, said)[0][first]
    with Image.open(tmp_path / "sheet0.png") as sheet:
        middle = torch.from_numpy(np.array(sheet.crop((20, 36, 130, 146)))).float().mean((0, 1))
    inside = picture[:, 4:29, 4:29].float().mean((1, 2))
    assert torch.allclose(middle, inside, atol=8)
    monkeypatch.setattr("sys.argv", ["sheets", "--data", "none", "--out", str(tmp_path), "--round", "2"])
    with pytest.raises(SystemExit):
        script.main()
