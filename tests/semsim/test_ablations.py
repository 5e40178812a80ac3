"""The example that ablates SemSim's training: what is left out is not trained on, and alone is measured."""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from fl_audit.core.errors import ConfigError
from fl_audit.core.files import write_tensors
from fl_audit.semsim.degradations import KINDS
from fl_audit.semsim.oracle import labels
from fl_audit.semsim.pictures import Pictures
from fl_audit.semsim.reconstructions import Reconstructions
from fl_audit.semsim.train import Batch

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "semsim_ablations.py"
NAMES = [kind.__name__ for kind, _ in KINDS]


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("semsim_ablations", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope="module")
def row(script: ModuleType) -> Any:
    """The module that trains and measures one row."""
    return importlib.import_module("_semsim_ablation")


@pytest.fixture(scope="module")
def shards(script: ModuleType) -> Any:
    """The module that reads shards."""
    return importlib.import_module("_semsim_shards")


def sets() -> list[Pictures]:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(24, 3, 5, 5, generator=generator)
    images = (torch.nn.functional.interpolate(coarse, (32, 32), mode="bicubic").clamp(0, 1) * 255).byte()
    return [
        Pictures("one", images[:12], torch.arange(12) % 3),
        Pictures("two", images[12:], torch.arange(12)),
    ]


def shard(path: Path, seed: int, **facts: str) -> None:
    """Eight pictures at two stages, the pictures of a shard all different."""
    victim = torch.randint(256, (8, 3, 32, 32), generator=torch.Generator().manual_seed(seed)).byte()
    stages = torch.cat([victim // 2, victim])
    known = {"architecture": "small", "attack": "deep leakage", "state": "fresh", "data_set": "one", **facts}
    tensors = {"original": victim.repeat(2, 1, 1, 1), "victim": victim.repeat(2, 1, 1, 1)}
    write_tensors(
        path, {**tensors, "reconstruction": stages, "kept": torch.ones(16), "visible": torch.ones(16)}, known
    )


def test_every_row_differs_from_the_reference_in_one_thing(script: ModuleType) -> None:
    rows = list(script.variants(["one", "two"], KINDS))
    assert {row.group for row in rows} == set(script.GROUPS[1:])
    assert len({(row.group, row.name) for row in rows}) == len(rows)
    reference = vars(script.Variant("", ""))
    # Several annotators are compared with one, on as many pairs.
    several = vars(next(row for row in rows if row.annotations == 1000 and row.annotators == 1))
    for row in rows:
        beside = several if row.annotators > 1 else reference
        assert sum(value != beside[name] for name, value in list(vars(row).items())[2:]) == 1, row


def test_what_is_left_out_is_not_drawn_and_is_what_is_measured(
    script: ModuleType, row: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[list[str], list[str]]] = []
    drawn = row.batches

    def watched(shown: list[Pictures], *given: Any, kinds: Any, **more: Any) -> Iterator[Batch]:
        calls.append(([part.name for part in shown], [kind.__name__ for kind, _ in kinds]))
        found: Iterator[Batch] = drawn(shown, *given, kinds=kinds, size=8, **more)
        return found

    monkeypatch.setattr(row, "batches", watched)
    material = row.Material(sets(), sets(), [], 1, 16, 0)
    for variant in (
        script.Variant("left-out", "two", backbone="lenet", left=script.Left("data_set", "two")),
        script.Variant("left-out", "mix", backbone="lenet", left=script.Left("kind", "mix")),
    ):
        network = script.trained(variant, material)
        assert script.measured(network, variant, material).pairs == 16
    assert calls[0] == (["one"], NAMES)
    assert calls[1] == (["two"], NAMES)
    assert calls[2] == (["one", "two"], [name for name in NAMES if name != "mix"])
    assert calls[3] == (["one", "two"], ["mix"])


def test_real_reconstructions_of_what_is_left_out_are_measured_on_and_not_trained_on(
    script: ModuleType, row: Any, shards: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard(tmp_path / "0.safetensors", 0)
    shard(tmp_path / "1.safetensors", 1, architecture="lenet")
    shard(tmp_path / "2.safetensors", 2, attack="inverting gradients", data_set="two")
    read = shards.read_shards(tmp_path)
    for one in read:
        trained_on, kept_out = (
            {image.numpy().tobytes() for image in part.original} for part in (one.trained_on, one.measured_on)
        )
        assert (len(trained_on), len(kept_out)) == (6, 2), "whole pictures, with all their stages"
        assert trained_on.isdisjoint(kept_out)
        assert len(one.trained_on.kept) + len(one.measured_on.kept) == 16
    names = [variant.name for variant in script.variants([], (), read) if variant.group == "left-out"]
    expected = ["lenet", "small"], ["deep leakage", "inverting gradients"]
    assert names == [
        f"{fact} {value}"
        for fact, values in zip(("architecture", "attack"), expected, strict=True)
        for value in values
    ], "all are fresh: that cannot be left out"
    given: list[Reconstructions | None] = []
    drawn = row.batches

    def watched(shown: Any, real: Reconstructions | None, *more: Any, **options: Any) -> Iterator[Batch]:
        given.append(real)
        found: Iterator[Batch] = drawn(shown, real, *more, size=8, **options)
        return found

    monkeypatch.setattr(row, "batches", watched)
    material = row.Material(sets(), sets(), read, 1, 16, 0)
    for left, others in (
        (script.Left("architecture", "lenet"), (0, 2)),
        (script.Left("attack", "deep leakage"), (2,)),
        (script.Left("data_set", "two"), (0, 1)),
    ):
        variant = script.Variant("left-out", "", backbone="lenet", left=left)
        network = script.trained(variant, material)
        real = given[-1]
        assert real is not None
        wanted = torch.cat([read[index].trained_on.reconstruction for index in others])
        assert torch.equal(real.reconstruction, wanted)
        if left.what != "data_set":
            count = sum(len(one.measured_on.kept) for one in read if one.facts[left.what] == left.value)
            assert script.measured(network, variant, material).pairs == count


def test_shards_that_do_not_say_where_they_came_from_are_refused(shards: Any, tmp_path: Path) -> None:
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    parts = {name: images for name in ("original", "victim", "reconstruction")}
    write_tensors(tmp_path / "old.safetensors", {**parts, "kept": torch.ones(1)}, {"attack": "deep leakage"})
    with pytest.raises(
        ConfigError, match=r"old\.safetensors: does not say its architecture, state, data_set"
    ):
        shards.read_shards(tmp_path)


def test_simulated_annotators_agree_with_the_oracle_on_average(row: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(64, 3, 32, 32, generator=generator)
    grades = torch.rand(64, 2, generator=generator)
    source = iter([Batch(images, images[:, None].expand(-1, 2, -1, -1, -1), grades)])
    found = row.annotated(source, 100, 200, 0)
    assert len(found.names) == len(found.answers) == 100
    assert torch.equal(found.originals[0], found.originals[1])
    sure = (grades.flatten()[:100] - 0.425).abs() > 0.4
    assert sure.any()
    gap = (found.answers - labels(grades.flatten()[:100]))[sure].abs()
    assert gap.max() < 0.1
    assert 0 < found.answers.std() < 0.5


def test_missing_data_is_said(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--data", str(tmp_path)]) == 1
    assert "found no such file" in capsys.readouterr().err
