"""Packaged and other weight files: what is loaded, and what is refused with which reason."""

import hashlib
import pickle  # to make a file that must be refused
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fl_audit.core.errors import MissingWeightsError
from fl_audit.core.seeding import seeded_globals
from fl_audit.metrics import installed_weights
from fl_audit.semsim import (
    BACKBONES,
    Backbone,
    Calibration,
    Weights,
    build,
    distance,
    load,
    packaged,
    packaged_path,
    save,
)
from fl_audit.semsim.weights import PACKAGED_SHA256


def fresh(backbone: Backbone = "lenet") -> Weights:
    with seeded_globals(0, "test"):
        return Weights(backbone, build(backbone).eval(), Calibration(2.0, 0.5))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save(tmp_path / "w.safetensors", fresh())
    return tmp_path / "w.safetensors"


def test_the_packaged_file_is_the_known_one_and_small() -> None:
    data = packaged_path().read_bytes()
    assert hashlib.sha256(data).hexdigest() == PACKAGED_SHA256 == packaged().sha256
    assert len(data) <= 24 * 2**20
    assert installed_weights()[packaged_path().name] == PACKAGED_SHA256  # what the manifest of a run holds


@pytest.mark.parametrize("backbone", BACKBONES)
def test_what_is_saved_comes_back_in_half_precision(backbone: Backbone, tmp_path: Path) -> None:
    weights = fresh(backbone)
    digest = save(tmp_path / "w.safetensors", weights, {"seed": "3"})
    again = load(tmp_path / "w.safetensors", backbone=backbone)
    assert (again.backbone, again.calibration, again.sha256) == (backbone, weights.calibration, digest)
    for name, value in weights.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value.half().to(value.dtype))
    x = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert distance(again.network, x, x.flip(2)).min() > 0


def test_another_backbone_is_refused(saved: Path) -> None:
    with pytest.raises(MissingWeightsError, match="weights of the backbone 'lenet', expected resnet18"):
        load(saved, backbone="resnet18")


def test_a_header_that_claims_another_backbone_is_refused(tmp_path: Path) -> None:
    lied = replace(fresh("lenet"), backbone="narrow")
    save(tmp_path / "w.safetensors", lied)
    with pytest.raises(MissingWeightsError, match="not the tensors of the backbone 'narrow'"):
        load(tmp_path / "w.safetensors")


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_truncated_file_is_refused(saved: Path, keep: int) -> None:
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(MissingWeightsError, match="not a whole safetensors file"):
        load(saved)


def test_a_changed_byte_is_refused(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    digest = hashlib.sha256(data).hexdigest()
    data[-5] ^= 1
    saved.write_bytes(data)
    with pytest.raises(MissingWeightsError, match="the tensors are not those that were saved"):
        load(saved)
    with pytest.raises(MissingWeightsError, match="changed or cut short"):
        load(saved, sha256=digest)


def test_a_pickle_is_refused_unread(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    plain.write_bytes(pickle.dumps({"weight": 1}))
    torch.save(fresh().network.state_dict(), packed)
    for path in (plain, packed):
        with pytest.raises(MissingWeightsError, match="a pickle or zip"):
            load(path)


def test_other_safetensors_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(MissingWeightsError, match="found none"):
        load(path)
    safetensors.torch.save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(MissingWeightsError, match="not SemSim weights"):
        load(path)
    bad = fresh()
    next(bad.network.parameters()).data[0] = torch.nan
    save(path, bad)
    with pytest.raises(MissingWeightsError, match="NaN or inf"):
        load(path)
    save(path, replace(fresh(), calibration=Calibration(1.0, -1.0)))
    with pytest.raises(MissingWeightsError, match="does not fall with the distance"):
        load(path)
