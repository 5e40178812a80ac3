"""The example that ablates SemSim's training: what is left out is not trained on, and alone is measured."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from fl_audit.semsim.degradations import KINDS
from fl_audit.semsim.pictures import Pictures
from fl_audit.semsim.train import Batch

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "semsim_ablations.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("semsim_ablations", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def sets() -> list[Pictures]:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(24, 3, 5, 5, generator=generator)
    images = (torch.nn.functional.interpolate(coarse, (32, 32), mode="bicubic").clamp(0, 1) * 255).byte()
    return [
        Pictures("one", images[:12], torch.arange(12) % 3),
        Pictures("two", images[12:], torch.arange(12)),
    ]


def test_every_row_differs_from_the_reference_in_one_thing(script: ModuleType) -> None:
    rows = list(script.variants(["one", "two"], KINDS))
    assert {row.group for row in rows} == set(script.GROUPS[1:])
    assert len({(row.group, row.name) for row in rows}) == len(rows)
    reference = vars(script.Variant("", ""))
    for row in rows:
        assert sum(value != reference[name] for name, value in list(vars(row).items())[2:]) == 1, row


def test_what_is_left_out_is_not_drawn_and_is_what_is_measured(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[list[str], list[str]]] = []
    drawn = script.batches

    def watched(shown: list[Pictures], *given: Any, kinds: Any, **more: Any) -> Iterator[Batch]:
        calls.append(([part.name for part in shown], [kind.__name__ for kind, _ in kinds]))
        found: Iterator[Batch] = drawn(shown, *given, kinds=kinds, size=8, **more)
        return found

    monkeypatch.setattr(script, "batches", watched)
    names = [kind.__name__ for kind, _ in KINDS]
    for variant in (
        script.Variant("left-out", "two", backbone="lenet", data_set="two"),
        script.Variant("left-out", "mix", backbone="lenet", kind="mix"),
    ):
        network = script.trained(variant, sets(), 1, 0)
        assert script.measured(network, variant, sets(), 16, 0).pairs == 16
    assert calls[0] == (["one"], names)
    assert calls[1] == (["two"], names)
    assert calls[2] == (["one", "two"], [name for name in names if name != "mix"])
    assert calls[3] == (["one", "two"], ["mix"])


def test_missing_data_is_said(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--data", str(tmp_path)]) == 1
    assert "found no such file" in capsys.readouterr().err
