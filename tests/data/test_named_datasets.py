import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from fl_audit.core.errors import ConfigError, MissingDataError
from fl_audit.core.images import check_images
from fl_audit.data import datasets
from fl_audit.data.torchvision_sets import TorchvisionDataset, cache_folder


def test_faces() -> None:
    data = datasets.create("faces").load()
    assert data.images.shape == (200, 1, 25, 25)
    assert data.classes == ("face", "not-face")
    assert torch.bincount(data.labels).tolist() == [100, 100]
    check_images(data.images)
    # The faces come first; many of the others were cropped across the border of a photograph, black there.
    black = [float((data.images[data.labels == label] == 0).float().mean()) for label in (0, 1)]
    assert black[1] > 10 * black[0]


def test_digits() -> None:
    data = datasets.create("digits").load()
    assert data.images.shape == (1797, 1, 8, 8)
    assert len(data.classes) == 10
    check_images(data.images)
    assert float(data.images.max()) == 1
    assert data.labels[:10].tolist() == list(range(10))


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def test_a_torchvision_set_on_disk(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.arange(6 * 28 * 28, dtype=np.uint64).astype(np.uint8).reshape(6, 28, 28)
    labels = np.array([3, 0, 3, 3, 1, 0], dtype=np.uint8)
    for split in ("train", "t10k"):
        (raw / f"{split}-images-idx3-ubyte").write_bytes(idx(images))
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(idx(labels))
    data = datasets.create(f"mnist:{tmp_path}").load()
    assert data.images.shape == (6, 1, 28, 28)
    assert torch.equal((data.images[:, 0] * 255).round().to(torch.uint8), torch.from_numpy(images))
    assert data.labels.tolist() == labels.tolist()
    assert len(data.classes) == 10
    less = datasets.create(f"mnist:{tmp_path},split=test,per_class=1,image_size=16").load()
    assert less.labels.tolist() == [3, 0, 1]
    assert less.images.shape == (3, 1, 16, 16)


@pytest.mark.parametrize(
    "name", sorted(name for name, cls in datasets if issubclass(cls, TorchvisionDataset))
)
def test_a_missing_torchvision_set_says_how_to_get_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=rf"{name}:root=.*,download=true") as caught:
        datasets.create(f"{name}:{tmp_path}").load()
    assert str(tmp_path) in str(caught.value)


def test_the_cache_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FL_AUDIT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    with pytest.raises(MissingDataError, match=rf"{tmp_path}.*'cifar10:download=true'"):
        datasets.create("cifar10").load()


USER_MODULE = """
import numpy as np, torch
from fl_audit.core.units import ImageData
def arrays():
    return np.zeros((4, 1, 8, 8)), np.array([0, 1, 1, 2])
def whole():
    return ImageData(torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]), ("a", "b"), "mine")
def normalised():
    return torch.full((4, 1, 8, 8), -2.0), torch.zeros(4, dtype=torch.int64)
def short():
    return torch.zeros(4, 1, 8, 8), torch.zeros(3, dtype=torch.int64)
def negative():
    return torch.zeros(2, 1, 8, 8), torch.tensor([0, -1])
def nothing():
    return None
"""


def test_your_own_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_images.py").write_text(USER_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    data = datasets.create("my_images:arrays").load()
    assert data.images.dtype == torch.float32
    assert data.classes == ("0", "1", "2")
    assert datasets.create("my_images:whole").load().title == "mine"
    for function, words in {
        "normalised": r"expected values in \[0, 1\]",
        "short": "one integer label for each of the 4",
        "negative": "labels run from -1 to 0",
        "nothing": "expected \\(images, labels\\)",
        "missing": "no attribute 'missing'",
    }.items():
        with pytest.raises(ConfigError, match=words):
            datasets.create(f"my_images:{function}").load()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("fcaes", "unknown dataset 'fcaes'. Did you mean 'faces'"),
        ("cifar11:download", "Did you mean 'cifar10'"),
        ("no_such_module:f", "no module 'no_such_module'"),
        ("cifar10:downlod=true", "Did you mean 'download'"),
        ("cifar10:download=perhaps", "valid boolean"),
        ("folder", "path is required"),
    ],
)
def test_bad_specs(spec: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        datasets.create(spec).load()
