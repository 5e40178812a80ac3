"""What an attacker knows of a client's batch-norm statistics: of the inputs of every batch-norm layer.

A client in train mode normalises by the mean and variance of its own batch, and PyTorch moves the running
statistics towards them: ``new = (1 - m) old + m batch`` with momentum m and the unbiased variance. The client
sends the new ones, so that those of its batch follow exactly (`inferred_statistics`); over several steps
their exponential average does. The other sources only say what images like the client's look like.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fl_audit.attacks.problem import AttackFailed, Problem

Source = Literal["best", "granted", "inferred", "running", "surrogate"]

BatchNorm = nn.modules.batchnorm._BatchNorm

MAX_SURROGATES = 512
"""Surrogate images that statistics are taken from; more change little."""


@dataclass(frozen=True)
class Statistics:
    """Statistics of the inputs of one batch-norm layer of C channels, float32.

    Attributes:
        mean: ``(C,)``.
        variance: unbiased, as PyTorch keeps it, ``(C,)``, positive.
        known: where they are known, bool ``(C,)``.
        weights: share of each local step in them, adding up to 1; one entry where steps are not told apart.
    """

    mean: Tensor
    variance: Tensor
    known: Tensor
    weights: tuple[float, ...] = (1.0,)


def batch_norms(model: nn.Module) -> dict[str, BatchNorm]:
    """The batch-norm layers of ``model`` by name, in order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, BatchNorm)}


def statistics(problem: Problem, source: Source) -> dict[str, Statistics]:
    """Statistics from ``source`` by name of the layer; ``best``: from `best_source`.

    Raises:
        AttackFailed: the model has no batch norm, or the source has nothing on it; the message says what.
    """
    layers = batch_norms(problem.model)
    if not layers:
        raise AttackFailed("the model has no batch norm")
    if source == "best":
        return statistics(problem, best_source(problem))
    if source == "granted":
        return _granted(problem, layers)
    if source == "surrogate":
        return _surrogate(problem, layers)
    if source == "inferred":
        return {name: inferred_statistics(problem, name) for name in layers}
    return _running(problem, layers)


def best_source(problem: Problem) -> Source:
    """The best source that has anything: granted, inferred, running, surrogate.

    Raises:
        AttackFailed: none has; the message says what each lacks.
    """
    reasons = []
    sources: tuple[Source, ...] = ("granted", "inferred", "running", "surrogate")
    for source in sources:
        try:
            statistics(problem, source)
        except AttackFailed as error:
            reasons.append(str(error))
        else:
            return source
    raise AttackFailed("; ".join(dict.fromkeys(reasons)))


def inferred_statistics(problem: Problem, name: str) -> Statistics:
    """The statistics of the client's own batch, from the running ones sent and received.

    Over T steps, the average in which step t of T counts in proportion to ``(1 - m)^(T - t)``, or all alike
    where the layer averages cumulatively (momentum None). Entries that came back unchanged are unknown: a
    defense cut them.

    Args:
        problem: the problem.
        name: of the batch-norm layer.

    Raises:
        AttackFailed: the statistics did not travel, did not move, or are no statistics, e.g. because noise
            was added to them.
    """
    keys = [f"{name}.{kind}".lstrip(".") for kind in ("running_mean", "running_var")]
    if any(key not in problem.buffers_received for key in keys):
        raise AttackFailed("the clients do not send their batch-norm statistics")
    old = [problem.buffers_sent[key].float() for key in keys]
    new = [problem.buffers_received[key].float() for key in keys]
    known = (old[0] != new[0]) & (old[1] != new[1])
    if not bool(known.any()):
        raise AttackFailed("the batch-norm statistics came back unchanged: the clients ran in eval mode")
    share, weights = _shares(problem, name)
    mean, variance = ((n - (1 - share) * o) / share for o, n in zip(old, new, strict=True))
    if bool((variance[known] < 0).any()):
        raise AttackFailed(
            "the batch-norm statistics that came back give a negative variance: a defense changed them, or "
            "the momentum of the clients' layers is another"
        )
    return Statistics(mean, variance.clamp(min=1e-12), known, weights)


def _shares(problem: Problem, name: str) -> tuple[float, tuple[float, ...]]:
    """Share of the local steps in the running statistics received, and of each step in that share."""
    momentum = batch_norms(problem.model)[name].momentum
    counts = [
        int(values[key]) if (key := f"{name}.num_batches_tracked".lstrip(".")) in values else None
        for values in (problem.buffers_sent, problem.buffers_received)
    ]
    before, after = counts
    steps = len(problem.step_sizes)
    if before is not None and after is not None and after > before:
        steps = after - before
    if momentum is None:
        if before is None:
            raise AttackFailed("batch norm averages cumulatively, and its counter was not sent")
        share, weights = steps / (before + steps), [1 / steps] * steps
    else:
        share = 1 - (1 - momentum) ** steps
        weights = [momentum * (1 - momentum) ** (steps - 1 - step) / share for step in range(steps)]
    told_apart = steps == len(problem.step_sizes) and sum(problem.step_sizes) == problem.num_images
    return share, tuple(weights) if told_apart else (1.0,)


def _running(problem: Problem, layers: dict[str, BatchNorm]) -> dict[str, Statistics]:
    found = {}
    for name in layers:
        keys = [f"{name}.{kind}".lstrip(".") for kind in ("running_mean", "running_var")]
        if any(key not in problem.buffers_sent for key in keys):
            raise AttackFailed("the server does not send batch-norm statistics")
        found[name] = _known(*(problem.buffers_sent[key] for key in keys))
    if all(bool((s.mean == 0).all() and (s.variance == 1).all()) for s in found.values()):
        raise AttackFailed("the batch-norm statistics sent are those of an untrained model")
    return found


def _granted(problem: Problem, layers: dict[str, BatchNorm]) -> dict[str, Statistics]:
    granted = problem.batch_norm or {}
    missing = [name for name, layer in layers.items() if name not in granted]
    if missing:
        raise AttackFailed(f"no batch-norm statistics are granted for {', '.join(missing[:5])}")
    wrong = [n for n, layer in layers.items() if any(v.shape != (layer.num_features,) for v in granted[n])]
    if wrong:
        raise AttackFailed(
            f"the batch-norm statistics granted for {wrong[0]!r} have another shape than "
            f"({layers[wrong[0]].num_features},)"
        )
    return {name: _known(*(value.to(problem.device) for value in granted[name])) for name in layers}


def _surrogate(problem: Problem, layers: dict[str, BatchNorm]) -> dict[str, Statistics]:
    """Of the attacker's own images, as one batch through the model as the client runs it."""
    images = problem.surrogate
    if images is None or len(images) < 2:
        raise AttackFailed("no surrogate images are granted")
    if tuple(images.shape[1:]) != problem.image_shape:
        raise AttackFailed(
            f"the surrogate images have shape {tuple(images.shape[1:])}, the clients' {problem.image_shape}"
        )
    found: dict[str, Statistics] = {}

    def hook(name: str, inputs: tuple[Tensor, ...]) -> None:
        mean, variance = moments(inputs[0], [len(inputs[0])])
        found[name] = _known(mean[0], variance[0])

    handles = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: hook(name, inputs))
        for name, layer in layers.items()
    ]
    try:
        with torch.no_grad():
            problem.model(images[:MAX_SURROGATES])
    finally:
        for handle in handles:
            handle.remove()
    return found


def _known(mean: Tensor, variance: Tensor) -> Statistics:
    mean, variance = mean.detach().float(), variance.detach().float()
    if not bool(torch.isfinite(mean).all() and torch.isfinite(variance).all() and (variance >= 0).all()):
        raise AttackFailed("the batch-norm statistics are not finite, or a variance is negative")
    return Statistics(mean, variance.clamp(min=1e-12), torch.ones_like(mean, dtype=torch.bool))


def moments(inputs: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance over images and places of consecutive groups of images.

    Args:
        inputs: ``(B, C, *places)``.
        sizes: images in each of G groups, adding up to B.

    Returns:
        ``(G, C)`` each; the variance of a single value is 0.
    """
    means, variances = [], []
    for part in torch.split(inputs.flatten(2) if inputs.ndim > 2 else inputs[..., None], list(sizes)):
        count = part.shape[0] * part.shape[2]
        mean = part.mean((0, 2))
        square = (part - mean[:, None]).square().sum((0, 2))
        means.append(mean)
        variances.append(square / max(count - 1, 1))
    return torch.stack(means), torch.stack(variances)
