"""Learned distances against people's answers on annotated pairs, with SSIM and PSNR beside them."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from fl_audit.faithfulness.compare import Column, faithfulness
from fl_audit.faithfulness.result import Faithfulness
from fl_audit.metrics import metrics

BESIDE = ("ssim", "psnr")
"""Metrics without training that the distances are held against."""


def against_answers(
    distances: Mapping[str, Tensor], originals: Tensor, reconstructions: Tensor, answers: Tensor
) -> list[Faithfulness]:
    """Correlations and AUC of each distance, and of `BESIDE`, with intervals.

    Pairs that share an original are drawn together in the bootstrap.

    Args:
        distances: ``(N,)`` by the name to report them under; lower is closer.
        originals: float ``(N, C, H, W)`` in [0, 1].
        reconstructions: the same shape and range.
        answers: 1 recognised, 0 not, or between, ``(N,)``.
    """
    keys = [image.numpy().tobytes() for image in originals]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    clusters = np.array([numbers[key] for key in keys], dtype=np.int64)
    columns = [Column(name, values.double().numpy(), -1) for name, values in distances.items()]
    for name in BESIDE:
        unit = metrics.create(name)
        scores = unit.score(originals, reconstructions).double().numpy()
        columns.append(Column(name, scores, 1 if unit.better == "higher" else -1))
    return [faithfulness(column, answers.double().numpy(), clusters) for column in columns]
