"""Finding a model's last linear layer, and what its gradient shows."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fl_audit.attacks.problem import AttackFailed, Problem

DUMMIES = 16


@dataclass(frozen=True)
class LastLayer:
    """What the last layer shows, float64 on the CPU; K classes, D features.

    Attributes:
        weight: ``(K, D)`` as sent.
        bias: ``(K,)`` as sent; zeros where the layer has none.
        weight_gradient: ``(K, D)``, up to the scale.
        bias_gradient: ``(K,)``, up to the scale; None where it has none or it is frozen.
        typical: mean embedding of random images, ``(D,)``.
    """

    weight: Tensor
    bias: Tensor
    weight_gradient: Tensor
    bias_gradient: Tensor | None
    typical: Tensor


def last_layer(problem: Problem) -> LastLayer:
    """Find the linear layer whose output is the model's, by running the model on random images."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def hook(name: str, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen[name] = (inputs[0].detach(), output.detach())

    linear = {name: m for name, m in problem.model.named_modules() if isinstance(m, nn.Linear)}
    handles = [
        module.register_forward_hook(lambda _, inputs, output, name=name: hook(name, inputs, output))
        for name, module in linear.items()
    ]
    noise = torch.rand(DUMMIES, *problem.image_shape, generator=problem.generator)
    smooth = nn.functional.avg_pool2d(noise, 3, stride=1, padding=1)
    try:
        with torch.no_grad():
            logits = problem.model(torch.cat([noise, smooth]).to(problem.device))
    finally:
        for handle in handles:
            handle.remove()
    for name in reversed(seen):
        embedding, output = seen[name]
        weight = f"{name}.weight".lstrip(".")
        if embedding.ndim == 2 and torch.equal(output, logits) and weight in problem.observed:
            return _layer(problem, linear[name], weight, f"{name}.bias".lstrip("."), embedding)
    raise AttackFailed(
        "the labels are not granted and cannot be inferred: the model does not end in a linear layer that "
        "the clients train. Grant the labels (threat.labels)"
    )


def _layer(problem: Problem, module: nn.Linear, weight: str, bias: str, embedding: Tensor) -> LastLayer:
    def double(value: Tensor) -> Tensor:
        return value.detach().to("cpu", torch.float64)

    gradients = {name: double(problem.observed[name]) for name in (weight, bias) if name in problem.observed}
    offsets = torch.zeros(module.out_features) if module.bias is None else module.bias
    return LastLayer(
        weight=double(module.weight),
        bias=double(offsets),
        weight_gradient=gradients[weight],
        bias_gradient=gradients.get(bias),
        typical=double(embedding).mean(0),
    )
