"""An image folder, or a zip of one, with one folder per class."""

from collections.abc import Iterator
from pathlib import Path
from typing import Self

import torch
from PIL import Image
from pydantic import Field

from fl_audit.core.decode import open_image
from fl_audit.core.registry import parse_params
from fl_audit.core.units import Dataset, ImageData
from fl_audit.data._decode import stack
from fl_audit.data._files import ImageFiles, open_files, split_spec
from fl_audit.data._registry import datasets


@datasets.register("folder")
class ImageFolder(Dataset):
    """Image folder or zip: one folder per class. A path alone (PATH, PATH.zip:inner/folder) means this.

    The order is that of the names, so it is the same on every machine, and from a folder or its zip.
    Parameters follow the path: ``photos.zip:train,image_size=32,per_class=200``. Hidden files and files
    without an image suffix are ignored; one damaged image is an error that names it. Decoding 50,000 JPEGs
    of 32x32 takes about 5 s on one core and 0.6 GB, so everything is loaded unless ``per_class`` says less.
    """

    path: str = Field(min_length=1, description="PATH of a folder or zip, or PATH.zip:inner/folder")
    image_size: int | None = Field(
        None, ge=8, le=1024, description="pixels: crop each image to its central square and resize it to this"
    )
    per_class: int | None = Field(None, ge=1, description="images of each class, first by name; unset: all")

    @classmethod
    def from_path_spec(cls, spec: str) -> Self:
        """Build from ``PATH`` or ``PATH,key=value,…``; a path that exists as written has no parameters."""
        path, _, rest = spec.partition(",")
        if Path(spec).expanduser().exists():
            return cls(path=spec)
        return cls.from_params("dataset", spec, {"path": path, **parse_params("dataset", spec, rest, [])})

    def load(self) -> ImageData:
        """Decode everything.

        Raises:
            ConfigError: nothing is there, a file is damaged, sizes differ, or memory would not suffice.
        """
        with open_files(self.path) as files:
            names = self._chosen(files.names)
            classes = tuple(dict.fromkeys(name.split("/")[0] for name in names))
            number = {name: index for index, name in enumerate(classes)}
            labels = torch.tensor([number[name.split("/")[0]] for name in names], dtype=torch.int64)
            images = stack(self._images(files, names), len(names), self.path, self._with)
        file, inner = split_spec(self.path)
        return ImageData(images, labels, classes, f"{file.name}:{inner}" if inner else file.resolve().name)

    def _chosen(self, names: tuple[str, ...]) -> list[str]:
        taken: dict[str, int] = {}
        chosen = []
        for name in names:
            label = name.split("/")[0]
            taken[label] = taken.get(label, 0) + 1
            if self.per_class is None or taken[label] <= self.per_class:
                chosen.append(name)
        return chosen

    def _images(self, files: ImageFiles, names: list[str]) -> Iterator[tuple[str, Image.Image]]:
        colon = ":" if self.path.lower().endswith(".zip") else "/"
        for name in names:
            where = f"{self.path.rstrip('/')}{colon}{name}"
            yield where, open_image(files.read(name), where, self.image_size)

    def _with(self, parameter: str) -> str:
        return repr(f"{self.path},{parameter}")
