"""The batch-norm prior: images whose statistics at every batch-norm layer are the ones known."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fl_audit.attacks.bn_statistics import Source, Statistics, batch_norms, moments, statistics
from fl_audit.attacks.priors import Penalty
from fl_audit.attacks.problem import AttackFailed, Problem

TINY = 1e-12
"""Keeps the slope of a norm finite where it is zero."""


@dataclass(frozen=True)
class BatchNormPrior:
    """Distance of batch-norm statistics times ``weight``.

    Yin et al., "Dreaming to Distill" (DeepInversion), CVPR 2020, https://arxiv.org/abs/1912.08795, and "See
    through Gradients", CVPR 2021, https://arxiv.org/abs/2104.07586, section 3.3: over layers, the norm of the
    difference of means plus that of variances. Differs in: each norm is relative to that of the known
    deviations or variances, and the layers are averaged, so that a weight means the same on every model; each
    layer normalises by the known statistics, so that rows do not mix and a client's own batch has distance
    0; see `bn_statistics` for where they come from.

    Attributes:
        weight: factor.
        source: where the statistics come from.
        needed: whether a client without them is an error; else it is noted, and its rows have distance 0.
    """

    weight: float
    source: Source
    needed: bool = True

    def bind(self, problems: Sequence[Problem], restarts: int) -> Penalty:
        """See `Prior`."""
        found = [self._statistics(problem) for problem in problems]
        if not any(found):
            return lambda images: 0 * images.flatten(1).sum(1)
        model, layers = _instrumented(problems[0], found, restarts)

        def penalty(images: Tensor) -> Tensor:
            for layer in layers:
                layer.distances.clear()
            model(images.flatten(0, 1))
            distances = [distance for layer in layers for distance in layer.distances]
            return self.weight * torch.stack(distances).mean(0)

        return penalty

    def _statistics(self, problem: Problem) -> dict[str, Statistics]:
        try:
            return statistics(problem, self.source)
        except AttackFailed as error:
            if self.needed:
                raise
            problem.notes.append(f"batch-norm statistics are not used: {error}")
            return {}


class _Matching(nn.Module):
    """Stands for a batch-norm layer: normalises each row by what is known, and notes the distance to it.

    Args:
        layer: the layer.
        known: what is known, for each problem.
        restarts: rows of each problem, next to each other.
        sizes: images of a row in each local step that is told apart.
    """

    def __init__(
        self,
        layer: nn.modules.batchnorm._BatchNorm,
        known: Sequence[Statistics],
        restarts: int,
        sizes: Sequence[int],
    ) -> None:
        super().__init__()
        self.layer = layer
        self.sizes = list(sizes)
        self.distances: list[Tensor] = []

        def rows(values: Sequence[Tensor]) -> Tensor:
            return torch.stack(list(values)).repeat_interleave(restarts, 0)

        self.mean = rows([one.mean for one in known])
        self.variance = rows([one.variance for one in known])
        self.known = rows([one.known.float() for one in known])
        self.counts = self.known.any(1).float()
        self.shares = rows([torch.tensor(one.weights, device=one.mean.device) for one in known])

    def forward(self, inputs: Tensor) -> Tensor:
        """``(R * N, C, *places)``."""
        rows, groups, channels = len(self.mean), len(self.sizes), inputs.shape[1]
        means, variances = moments(inputs, self.sizes * rows)
        shares = self.shares[..., None]
        mean = (means.view(rows, groups, channels) * shares).sum(1)
        variance = (variances.view(rows, groups, channels) * shares).sum(1)
        means_apart = _norm((mean - self.mean) * self.known) / _norm(self.variance.sqrt() * self.known)
        variances_apart = _norm((variance - self.variance) * self.known) / _norm(self.variance * self.known)
        self.distances.append((means_apart + variances_apart) * self.counts)
        return self._normalised(inputs, rows)

    def _normalised(self, inputs: Tensor, rows: int) -> Tensor:
        images = inputs.shape[0] // rows
        values = inputs[0, 0].numel() * images / len(self.sizes)
        biased = self.variance * max(values - 1, 1) / max(values, 1)
        factor, offset = (biased + self.layer.eps).rsqrt(), self.mean
        if self.layer.affine:
            factor = factor * self.layer.weight.detach()
        shape = (rows, 1, -1, *(1,) * (inputs.ndim - 2))
        centred = inputs.view(rows, images, *inputs.shape[1:]) - offset.view(shape)
        scaled = centred * factor.view(shape)
        if self.layer.affine:
            scaled = scaled + self.layer.bias.detach().view(1, *shape[1:])
        return scaled.flatten(0, 1)


def _instrumented(
    problem: Problem, found: Sequence[dict[str, Statistics]], restarts: int
) -> tuple[nn.Module, list[_Matching]]:
    """A copy of the model with `_Matching` layers, and these."""
    model = copy.deepcopy(problem.model).requires_grad_(False)
    layers = []
    for name, layer in batch_norms(model).items():
        known = [one.get(name) or _unknown(layer, problem.device) for one in found]
        steps = len(problem.step_sizes)
        if steps > 1 and all(len(one.weights) == steps for one in known):
            matching = _Matching(layer, known, restarts, problem.step_sizes)
        else:
            known = [replace(one, weights=(1.0,)) for one in known]
            matching = _Matching(layer, known, restarts, (problem.num_images,))
        model.set_submodule(name, matching)
        layers.append(matching)
    return model, layers


def _unknown(layer: nn.modules.batchnorm._BatchNorm, device: torch.device) -> Statistics:
    mean = torch.zeros(layer.num_features, device=device)
    return Statistics(mean, torch.ones_like(mean), torch.zeros_like(mean, dtype=torch.bool))


def _norm(values: Tensor) -> Tensor:
    """Euclidean norm of each row, ``(R,)``."""
    return (values.square().sum(1) + TINY).sqrt()
