"""Shards of real reconstructions: where each came from, and all of them but some."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors import safe_open
from torch import Tensor

from fl_audit.core.errors import ConfigError, MissingDataError
from fl_audit.core.files import read_tensors
from fl_audit.semsim.reconstructions import Reconstructions

Fact = Literal["architecture", "attack", "state", "data_set"]
FACTS: tuple[Fact, ...] = get_args(Fact)
"""What is known of a shard: the attacked network, what was minimised, fresh or trained, whose pictures."""
MEASURED = 0.25
"""Share of each shard's pictures, with everything made of them, that is measured on and never trained on."""


@dataclass(frozen=True)
class Shard:
    """One file.

    Attributes:
        facts: where it came from.
        trained_on: what a network may be trained on.
        measured_on: the rest, of other pictures.
    """

    facts: dict[Fact, str]
    trained_on: Reconstructions
    measured_on: Reconstructions


def read_shards(folder: Path) -> list[Shard]:
    """The shards of a folder, from ``examples/semsim_reconstructions.py``.

    Raises:
        MissingDataError: there are none.
        ConfigError: one does not say where it came from.
    """
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise MissingDataError(f"{folder}: no *.safetensors; examples/semsim_reconstructions.py makes them")
    return [_read(path) for path in paths]


def values(shards: Sequence[Shard], fact: Fact) -> list[str]:
    """The different values of a fact, if there are at least two: else none can be left out."""
    found = sorted({shard.facts[fact] for shard in shards})
    return found if len(found) > 1 else []


def _read(path: Path) -> Shard:
    tensors = read_tensors(path)
    with safe_open(path, "pt") as file:
        header = file.metadata() or {}
    lacking = [fact for fact in FACTS if fact not in header]
    if lacking:
        raise ConfigError(
            f"{path}: does not say its {', '.join(lacking)}; make it anew with "
            "examples/semsim_reconstructions.py"
        )
    whole = Reconstructions.of(tensors)
    held = _held(whole.original)
    return Shard(
        {fact: header[fact] for fact in FACTS},
        whole.part((~held).nonzero().flatten()),
        whole.part(held.nonzero().flatten()),
    )


def _held(originals: Tensor) -> Tensor:
    """Whether each row is measured on: whole pictures, the last ones, of which a shard has several stages."""
    pictures = list(dict.fromkeys(image.numpy().tobytes() for image in originals))
    last = set(pictures[round((1 - MEASURED) * len(pictures)) :])
    return torch.tensor([image.numpy().tobytes() in last for image in originals])
