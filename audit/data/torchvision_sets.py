"""Data sets of torchvision, by name. Downloaded only when asked."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from PIL import Image
from pydantic import Field

from fl_audit.core.decode import fit
from fl_audit.core.errors import MissingDataError
from fl_audit.core.units import Dataset, ImageData
from fl_audit.data._decode import stack
from fl_audit.data._registry import datasets

Split = Literal["train", "test"]


class TorchvisionDataset(Dataset):
    """Base of the sets below: torchvision's class, and what its constructor calls the split."""

    source: ClassVar[str]
    by_split: ClassVar[dict[Split, dict[str, Any]]] = {"train": {"train": True}, "test": {"train": False}}

    root: Path | None = Field(None, description="folder that holds the data; unset: the user's cache folder")
    download: bool = Field(False, description="true: download what is missing")
    split: Split = Field("train", description="which split of the data set is shared out: train or test")
    image_size: int | None = Field(
        None, ge=8, le=1024, description="pixels: crop each image to its central square and resize it to this"
    )
    per_class: int | None = Field(None, ge=1, description="images of each class, first come; unset: all")

    def load(self) -> ImageData:
        """Read the data; downloads only with ``download=true``.

        Raises:
            MissingDataError: it is not there; the message has the spec that downloads it.
        """
        data = self._open()
        rows: list[int] = []
        labels: list[int] = []
        images: list[Image.Image] = []
        taken: dict[int, int] = {}
        for row in range(len(data)):
            image, label = data[row]
            taken[int(label)] = taken.get(int(label), 0) + 1
            if self.per_class is None or taken[int(label)] <= self.per_class:
                rows.append(row)
                labels.append(int(label))
                images.append(fit(image, self.image_size))

        def named() -> Iterator[tuple[str, Image.Image]]:
            return ((f"{self.name} image {row}", image) for row, image in zip(rows, images, strict=True))

        tensor = stack(named(), len(rows), self.name, self._with)
        names = getattr(data, "classes", None) or [str(label) for label in range(max(labels) + 1)]
        title = f"{self.source} {self.split} (torchvision)"
        return ImageData(tensor, torch.tensor(labels, dtype=torch.int64), tuple(map(str, names)), title)

    def _open(self) -> Any:
        import torchvision

        root = self.root or cache_folder() / "data"
        try:
            return getattr(torchvision.datasets, self.source)(
                root=str(root), download=self.download, **self.by_split[self.split]
            )
        except (RuntimeError, OSError) as error:
            reason = str(error).split("\n", 1)[0]
            if self.download:
                raise MissingDataError(
                    f"dataset {self.name!r}: the download to {root} failed ({reason}). Try again, or put "
                    f"torchvision's {self.source} there"
                ) from None
            raise MissingDataError(
                f"dataset {self.name!r} is not in {root} ({reason}). Download it with --dataset "
                f"{self._with('download=true')}, or say where it is: {self.name}:root=FOLDER"
            ) from None

    def _with(self, parameter: str) -> str:
        given = {name: value for name, value in self.params().items() if name in self.model_fields_set}
        given.pop(parameter.split("=")[0], None)
        return repr(
            f"{self.name}:{','.join([*(f'{name}={value}' for name, value in given.items()), parameter])}"
        )


def cache_folder() -> Path:
    """Where downloads go: ``FL_AUDIT_CACHE``, or ``fl-audit`` in the platform's cache folder of the user."""
    given = os.environ.get("FL_AUDIT_CACHE")
    if given:
        return Path(given)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "fl-audit"


_NAMED: dict[Split, dict[str, Any]] = {"train": {"split": "train"}, "test": {"split": "test"}}


@datasets.register("cifar10")
class Cifar10(TorchvisionDataset):
    """CIFAR-10 (torchvision): 50,000 photographs, colour, 32x32, 10 classes."""

    source = "CIFAR10"


@datasets.register("cifar100")
class Cifar100(TorchvisionDataset):
    """CIFAR-100 (torchvision): 50,000 photographs, colour, 32x32, 100 classes."""

    source = "CIFAR100"


@datasets.register("mnist")
class Mnist(TorchvisionDataset):
    """MNIST (torchvision): 60,000 handwritten digits, grey, 28x28."""

    source = "MNIST"


@datasets.register("fashion-mnist")
class FashionMnist(TorchvisionDataset):
    """Fashion-MNIST (torchvision): 60,000 pieces of clothing, grey, 28x28, 10 classes."""

    source = "FashionMNIST"


@datasets.register("kmnist")
class Kmnist(TorchvisionDataset):
    """Kuzushiji-MNIST (torchvision): 60,000 cursive characters, grey, 28x28, 10 classes."""

    source = "KMNIST"


@datasets.register("usps")
class Usps(TorchvisionDataset):
    """USPS (torchvision): 7,291 handwritten digits, grey, 16x16."""

    source = "USPS"


@datasets.register("svhn")
class Svhn(TorchvisionDataset):
    """Street View House Numbers (torchvision): 73,257 digits, colour, 32x32."""

    source = "SVHN"
    by_split = _NAMED


@datasets.register("stl10")
class Stl10(TorchvisionDataset):
    """STL-10 (torchvision): 5,000 photographs, colour, 96x96, 10 classes."""

    source = "STL10"
    by_split = _NAMED


@datasets.register("gtsrb")
class Gtsrb(TorchvisionDataset):
    """German traffic signs (torchvision): 26,640 photographs of many sizes (give image_size), 43 classes."""

    source = "GTSRB"
    by_split = _NAMED


@datasets.register("flowers102")
class Flowers102(TorchvisionDataset):
    """Oxford flowers (torchvision): 1,020 photographs of many sizes (give image_size), 102 classes."""

    source = "Flowers102"
    by_split = _NAMED


@datasets.register("oxford-pets")
class OxfordPets(TorchvisionDataset):
    """Oxford-IIIT pets (torchvision): 3,680 photographs of many sizes (give image_size), 37 classes."""

    source = "OxfordIIITPet"
    by_split: ClassVar[dict[Split, dict[str, Any]]] = {
        "train": {"split": "trainval"},
        "test": {"split": "test"},
    }
