"""Weights of torchvision's networks, which a user downloads once; nothing else here reaches the network."""

import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from fl_audit.core.errors import MissingWeightsError
from fl_audit.semsim import packaged_path

Network = Literal["alex", "vgg", "squeeze", "inception"]


@dataclass(frozen=True)
class WeightFile:
    """One file of weights.

    Attributes:
        title: what it is, for messages.
        url: where torchvision has it; the file name ends in the first digits of its SHA-256.
    """

    title: str
    url: str

    @property
    def path(self) -> Path:
        """Where torch.hub keeps it: the same file that torchvision and lpips use."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.url.rsplit("/", 1)[-1]

    @property
    def sha256(self) -> str:
        """First digits of the SHA-256, from the file name."""
        match = re.search(r"-([0-9a-f]{8,})\.", self.path.name)
        if match is None:
            raise ValueError(f"{self.path.name}: no hash in the name")
        return match[1]


@functools.cache
def weight_files() -> Mapping[Network, WeightFile]:
    """The files that the metrics need, from torchvision's own table."""
    # Imported here: torchvision is slow to import.
    from torchvision import models

    return {
        "alex": WeightFile("AlexNet (ImageNet)", models.AlexNet_Weights.IMAGENET1K_V1.url),
        "vgg": WeightFile("VGG-16 (ImageNet)", models.VGG16_Weights.IMAGENET1K_V1.url),
        "squeeze": WeightFile("SqueezeNet 1.1 (ImageNet)", models.SqueezeNet1_1_Weights.IMAGENET1K_V1.url),
        "inception": WeightFile("Inception v3 (ImageNet)", models.Inception_V3_Weights.IMAGENET1K_V1.url),
    }


def problem(network: Network) -> str | None:
    """Why the weights cannot be used (missing or damaged) and how to mend it, or None."""
    file = weight_files()[network]
    if not file.path.is_file():
        return (
            f"the weights of {file.title} are not on this machine ({file.path.name}); "
            "'fl-audit doctor --download' fetches them"
        )
    if not _digest(file.path, file.path.stat().st_mtime_ns).startswith(file.sha256):
        return (
            f"the weights of {file.title} are damaged: {file.path.name} has another SHA-256; delete the file "
            "and run 'fl-audit doctor --download'"
        )
    return None


def installed_weights() -> dict[str, str]:
    """SHA-256 of every weight file that the metrics here can use, by file name; figures depend on them."""
    paths = [file.path for network, file in weight_files().items() if problem(network) is None]
    paths += [path for path in (packaged_path(),) if path.is_file()]
    return {path.name: _digest(path, path.stat().st_mtime_ns) for path in paths}


def load_weights(network: Network) -> dict[str, Tensor]:
    """The state dict; its file is checked first, and read without executing anything in it.

    Raises:
        MissingWeightsError: the file is missing or damaged.
    """
    reason = problem(network)
    if reason is not None:
        raise MissingWeightsError(reason)
    state: dict[str, Tensor] = torch.load(weight_files()[network].path, map_location="cpu", weights_only=True)
    return state


def download_weights(
    networks: Sequence[Network] = ("alex", "inception"), *, progress: bool = False
) -> list[Path]:
    """Download what is missing or damaged, check its hash, and return the files.

    Only ``fl-audit doctor --download`` calls this.

    Raises:
        MissingWeightsError: a download failed.
    """
    files = []
    for network in networks:
        file = weight_files()[network]
        if problem(network) is not None:
            file.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                torch.hub.download_url_to_file(file.url, str(file.path), file.sha256, progress)
            except (OSError, RuntimeError) as error:  # RuntimeError: another hash than expected
                raise MissingWeightsError(
                    f"downloading {file.title} from {file.url} failed ({error}). Try again, or put the "
                    f"file at {file.path}"
                ) from error
        files.append(file.path)
    return files


@functools.lru_cache(maxsize=8)
def _digest(path: Path, stamp: int) -> str:
    """SHA-256 of a file; ``stamp``, its modification time, keys the cache."""
    del stamp
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
