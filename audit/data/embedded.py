"""Data sets that ship inside well-kept libraries, so that an audit runs offline."""

from collections.abc import Callable

import numpy as np
import torch

from fl_audit.core.units import Dataset, ImageData
from fl_audit.data._registry import datasets


@datasets.register("faces")
class Faces(Dataset):
    """LFW subset of scikit-image: 100 faces and 100 other crops, grey, 25x25.

    Crops of "Labeled Faces in the Wild" (Huang, Ramesh, Berg and Learned-Miller, 2007,
    https://vis-www.cs.umass.edu/lfw/), packaged by scikit-image: the first 100 are faces, the rest are not.
    """

    def load(self) -> ImageData:
        """Read the wheel's own file; nothing is downloaded."""
        # Imported here: scikit-image costs most of a second, which only this data set needs.
        from skimage.data import lfw_subset

        read: Callable[[], np.ndarray] = lfw_subset
        images = torch.from_numpy(np.asarray(read(), dtype=np.float32))[:, None].clamp(0, 1)
        labels = torch.arange(len(images)).ge(len(images) // 2).long()
        return ImageData(images, labels, ("face", "not-face"), "LFW subset (scikit-image)")


@datasets.register("digits")
class Digits(Dataset):
    """Handwritten digits of scikit-learn: 1,797 images, grey, 8x8, 10 classes.

    Test set of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998,
    https://archive.ics.uci.edu/dataset/80); pixels have 17 levels.
    """

    def load(self) -> ImageData:
        """Read the wheel's own file; nothing is downloaded."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = torch.from_numpy(np.asarray(digits.images, dtype=np.float32))[:, None] / 16
        labels = torch.from_numpy(np.asarray(digits.target, dtype=np.int64))
        return ImageData(images, labels, tuple(str(digit) for digit in range(10)), "digits (scikit-learn)")
