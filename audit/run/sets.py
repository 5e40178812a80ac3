"""Metrics of whole sets: all reconstructions of one attack under one defense against their originals."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fl_audit.metrics import Metric
from fl_audit.reports.schema import SetScore, rounded

DIFFERENT_SIZES = "the images differ in size or channels"


class SetCollector:
    """Keeps matched images, if there is a metric that compares whole sets, until all are there.

    Args:
        units: the run's metrics by name; those of single images are ignored.
    """

    def __init__(self, units: Mapping[str, Metric]) -> None:
        self._units = {name: unit for name, unit in units.items() if not unit.per_image}
        self._images: dict[tuple[str, str], list[tuple[Tensor, Tensor]]] = {}

    def add(self, defense: str, attack: str, originals: Tensor, reconstructions: Tensor) -> None:
        """Add one job's pairs, float32 ``(N, C, H, W)`` each."""
        if self._units:
            self._images.setdefault((defense, attack), []).append((originals, reconstructions))

    def scores(self, defense: str) -> list[SetScore]:
        """Every metric of every attack under ``defense``, by attack in the order they came."""
        return [
            _score(name, unit, attack, pairs)
            for (owner, attack), pairs in self._images.items()
            if owner == defense
            for name, unit in self._units.items()
        ]


def _score(name: str, unit: Metric, attack: str, pairs: list[tuple[Tensor, Tensor]]) -> SetScore:
    count = sum(len(originals) for originals, _ in pairs)
    if len({originals.shape[1:] for originals, _ in pairs}) > 1:
        return SetScore(metric=name, attack=attack, images=count, reason=DIFFERENT_SIZES)
    originals, reconstructions = (torch.cat(side) for side in zip(*pairs, strict=True))
    found = unit.grade(originals, reconstructions)
    if found.reasons[0] is not None:
        return SetScore(metric=name, attack=attack, images=count, reason=found.reasons[0])
    return SetScore(metric=name, attack=attack, images=count, value=rounded(float(found.values[0])))
