"""Tensors come back as they were, and any safetensors reader reads the file."""

from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from fl_audit.core.files import read_tensors, write_tensors


@pytest.mark.parametrize("metadata", [None, {"training": '{"é": 1}'}])
def test_the_file_is_one_that_the_library_reads(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "b/weight": torch.rand(3, 4, generator=generator).t(),
        "half": torch.rand(3, generator=generator).half(),
        "brain": torch.rand(2, 2, generator=generator).bfloat16(),
        "a": torch.rand(2, 0, 5, dtype=torch.float64),
        "counter": torch.tensor(7),
        "flags": torch.tensor([True, False, True]),
        "ünïcode": torch.arange(5, dtype=torch.int8),
        "bytes": torch.arange(5, dtype=torch.uint8),
    }
    path = tmp_path / "x.safetensors"
    write_tensors(path, tensors, metadata)
    plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
    theirs = safetensors.torch.save(plain, metadata)
    assert path.stat().st_size == len(theirs)
    assert path.read_bytes()[:8] == theirs[:8]  # the length of the header, which holds the same in some order
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == metadata
    back = read_tensors(path)
    assert set(back) == set(tensors)
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)
    assert all(back[name].dtype == tensors[name].dtype for name in tensors)


def test_a_rare_dtype_comes_back_as_it_was(tmp_path: Path) -> None:
    values = torch.rand(4).to(torch.float8_e4m3fn)
    write_tensors(tmp_path / "x", {"x": values})
    assert torch.equal(read_tensors(tmp_path / "x")["x"].view(torch.uint8), values.view(torch.uint8))
