"""Finding a model's last linear layer, and what its gradient shows."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from fl_audit.attacks._image_count import ROUNDING, visible_rank
from fl_audit.attacks._stand_ins import dead_leaves
from fl_audit.attacks.problem import AttackFailed, Named, Problem
from fl_audit.core.seeding import torch_generator

STAND_INS = 48
"""Images that the model is run on to see what embeddings look like."""


@dataclass(frozen=True)
class LastLayer:
    """What the last layer shows, float64 on the CPU; K classes, D features.

    Attributes:
        weight: ``(K, D)``: as sent; over several local steps half way between sent and received.
        bias: ``(K,)``, likewise; zeros where the layer has none.
        weight_gradient: ``(K, D)``, up to the scale.
        bias_gradient: ``(K,)``, up to the scale; None where it has none or it is frozen.
        embeddings: inputs of the layer for images that stand in for the client's, ``(M, D)``.
        scale: factor on the mean gradient that the gradients have; None: unknown.
        steps: local steps that the gradients are summed over.
        rounding: standard deviation of the rounding error of the entries of ``weight_gradient``.
        name: of the layer in the model.
    """

    weight: Tensor
    bias: Tensor
    weight_gradient: Tensor
    bias_gradient: Tensor | None
    embeddings: Tensor
    scale: float | None = 1.0
    steps: int = 1
    rounding: float = 0.0
    name: str = ""

    @property
    def classes(self) -> int:
        """Number of classes, K."""
        return len(self.weight)

    @cached_property
    def typical(self) -> Tensor:
        """Mean embedding of the stand-ins, ``(D,)``."""
        return self.embeddings.mean(0)

    @cached_property
    def direction(self) -> Tensor:
        """Direction v, ``(D,)``, with ``<v, e>`` near 1 for the embedding e of any image.

        Ridge regression of 1 on the stand-ins' embeddings; the ridge is their mean squared deviation.
        """
        e = self.embeddings
        spread = float((e - self.typical).square().sum(1).mean())
        gram = e @ e.T
        floor = max(spread, 1e-6 * float(gram.diagonal().mean()), 1e-30)
        weights = torch.linalg.solve(gram + floor * torch.eye(len(e), dtype=e.dtype), e.new_ones(len(e)))
        direction: Tensor = weights @ e
        scaled: Tensor = direction / (self.typical @ direction).clamp(min=1e-30)
        return scaled

    @cached_property
    def offset_gradient(self) -> Tensor:
        """The bias's gradient ``(K,)``, or what the weight's says of it where there is none."""
        return self.weight_gradient @ self.direction if self.bias_gradient is None else self.bias_gradient

    @cached_property
    def extended(self) -> Tensor:
        """The weight's gradient with the bias's as a further feature, 1 for every image, ``(K, D + 1)``."""
        if self.bias_gradient is None:
            return self.weight_gradient
        return torch.cat([self.weight_gradient, self.bias_gradient[:, None]], 1)

    @cached_property
    def rank(self) -> int:
        """Rank of `extended` above rounding, K - 1 at most: the number of images if it is less."""
        return visible_rank(self.extended, self.rounding)

    def offset_feature(self, embeddings: Tensor) -> Tensor:
        """What `offset_gradient` weighs each image's residual by, ``(..., D)`` to ``(...)``."""
        if self.bias_gradient is None:
            return embeddings @ self.direction
        return embeddings.new_ones(embeddings.shape[:-1])

    def probabilities(self, embeddings: Tensor) -> Tensor:
        """Of each class, ``(..., D)`` to ``(..., K)``."""
        return (embeddings @ self.weight.T + self.bias).softmax(-1)


def last_layer(problem: Problem) -> LastLayer:
    """Find the linear layer whose output is the model's, by running the model on stand-ins.

    Over several steps weights and embeddings are those half way between what was sent and what came back:
    to second order in the step size, that is where the mean gradient belongs (the midpoint rule).

    Raises:
        AttackFailed: the model does not end in a trained linear layer.
    """
    images = _stand_ins(problem).to(problem.device)
    name, start = _embeddings(problem, problem.parameters, images)
    weight, bias = f"{name}.weight".lstrip("."), f"{name}.bias".lstrip(".")
    if weight not in problem.observed:
        raise AttackFailed(MISSING)
    everything = {**problem.constants, **problem.parameters}
    steps = len(problem.step_sizes)
    moved: Named = {}
    embeddings = start
    if steps > 1:
        end = {key: value - problem.observed[key] for key, value in problem.parameters.items()}
        embeddings = (start + _embeddings(problem, end, images)[1]) / 2
        moved = {key: problem.observed[key] / 2 for key in (weight, bias) if key in problem.observed}

    def double(value: Tensor) -> Tensor:
        return value.detach().to("cpu", torch.float64)

    def halfway(key: str) -> Tensor:
        return double(everything[key]) - (double(moved[key]) if key in moved else 0)

    offsets = halfway(bias) if bias in everything else torch.zeros(len(everything[weight]))
    layer = LastLayer(
        weight=halfway(weight),
        bias=double(offsets),
        weight_gradient=double(problem.observed[weight]),
        bias_gradient=double(problem.observed[bias]) if bias in problem.observed else None,
        embeddings=double(embeddings),
        scale=problem.gradient_scale,
        steps=steps,
        rounding=_rounding(problem, weight),
        name=name,
    )
    return _without_decay(problem, layer)


MISSING = (
    "the labels are not granted and cannot be inferred: the model does not end in a linear layer that "
    "the clients train. Grant the labels (threat.labels)"
)


def _stand_ins(problem: Problem) -> Tensor:
    """Surrogate images where they are granted, drawn ones where they are too few."""
    drawn = dead_leaves(STAND_INS, problem.image_shape, torch_generator(0, "stand-ins"))
    granted = problem.surrogate
    if granted is None or granted.shape[1:] != drawn.shape[1:]:
        return drawn
    return torch.cat([granted.cpu(), drawn])[:STAND_INS]


def _embeddings(problem: Problem, parameters: Named, images: Tensor) -> tuple[str, Tensor]:
    """Name of the last layer and its input ``(M, D)``."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def hook(name: str, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.pop(name, None)
        seen[name] = (inputs[0].detach(), output.detach())

    handles = [
        module.register_forward_hook(lambda _, inputs, output, name=name: hook(name, inputs, output))
        for name, module in problem.model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        with torch.no_grad():
            logits = problem.logits(parameters, images)
    finally:
        for handle in handles:
            handle.remove()
    for name in reversed(seen):
        embedding, output = seen[name]
        if embedding.ndim == 2 and torch.equal(output, logits):
            return name, embedding
    raise AttackFailed(MISSING)


def _rounding(problem: Problem, weight: str) -> float:
    """Of weights that were sent back; what the difference is divided by divides the error too."""
    rate = problem.training.learning_rate if problem.training is not None and problem.is_gradient else 1.0
    return ROUNDING * float(problem.parameters[weight].square().mean().sqrt()) / rate


def _without_decay(problem: Problem, layer: LastLayer) -> LastLayer:
    """Take away what weight decay adds over several steps; over one, the problem has done so."""
    training = problem.training
    rate = problem.total_rate
    if training is None or rate is None or layer.steps == 1 or not training.weight_decay:
        return layer
    factor = rate * training.weight_decay
    bias = layer.bias_gradient
    return replace(
        layer,
        weight_gradient=layer.weight_gradient - factor * layer.weight,
        bias_gradient=None if bias is None else bias - factor * layer.bias,
    )
