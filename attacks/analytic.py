"""The exact input of a first linear layer with bias, in closed form."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from fl_audit.attacks._registry import attacks
from fl_audit.attacks.base import Attack
from fl_audit.attacks.problem import AttackFailed, Problem
from fl_audit.core.types import Reconstruction

MAX_ROWS = 2048
"""Rows compared with each other, those with the largest bias gradient first."""

MAX_GROUPS = 128
"""Candidates tested for lying between two others, those that most rows agree on first."""

OUTSIDE = 1e-3
"""Root mean square distance from [0, 1] beyond which a candidate is no image."""


@dataclass(frozen=True)
class FirstLayer:
    """The linear layer that sees the image, and what the model does to the image before it.

    Attributes:
        weight: name of its weight.
        bias: name of its bias.
        scale: input of the layer per pixel value, ``(D,)``; never 0.
        offset: input of the layer for a black image, ``(D,)``.
    """

    weight: str
    bias: str
    scale: Tensor
    offset: Tensor


@attacks.register("analytic")
class Analytic(Attack):
    """The image itself, in closed form, where the first layer is linear with a bias; exact at batch 1.

    Row i of a linear layer's weight gradient is ``sum_j d_ij x_j`` and of its bias gradient ``sum_j d_ij``
    over images j, so their ratio is the input wherever a row was active for one image only. Phong et al.,
    "Privacy-Preserving Deep Learning via Additively Homomorphic Encryption", IEEE TIFS 2018, section 3,
    https://eprint.iacr.org/2017/715; Geiping et al. 2020, proposition 3.1, https://arxiv.org/abs/2003.14053.
    Differs in: one image uses all rows (least squares); of several images, mixtures come last and
    inputs that several rows agree on first. The scale of the gradient cancels, and neither labels nor loss
    are needed.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model", "image_shape"})
    uses: ClassVar[frozenset[str]] = frozenset({"training", "labels"})
    paper: ClassVar[str] = (
        "Phong et al., Privacy-Preserving Deep Learning via Additively Homomorphic Encryption, IEEE TIFS "
        "2018, https://eprint.iacr.org/2017/715"
    )
    works: ClassVar[str] = (
        "networks whose first layer is linear with a bias: one image exactly, of several those that light up "
        "a unit alone"
    )

    agreement: float = Field(
        1e-5, gt=0, le=1, description="root mean square pixel difference at which two rows show one image"
    )

    def _reconstruct(self, problem: Problem) -> Reconstruction:
        layer = first_layer(problem)
        weight = problem.observed[layer.weight].double()
        bias = problem.observed[layer.bias].double()
        if problem.num_images == 1:
            inputs = single_input(weight, bias)[None]
        else:
            inputs, confirmed = distinct_inputs(weight, bias, layer, problem.num_images, self.agreement)
            problem.notes.append(
                f"{confirmed} of {len(inputs)} images are confirmed by several rows of {layer.weight!r}"
            )
        if len(problem.step_sizes) > 1 or problem.training is None:
            problem.notes.append("the update is treated as one step's gradient")
        images = (inputs - layer.offset) / layer.scale
        return Reconstruction(
            "done",
            images=images.float().view(-1, *problem.image_shape),
            objective=unexplained(weight, bias, inputs),
        )


def first_layer(problem: Problem) -> FirstLayer:
    """Find the first linear layer and how pixels reach it, by running the model on four probe images.

    Raises:
        AttackFailed: no linear layer with a trained bias sees the raw image; the message names the layer.
    """
    shape = problem.image_shape
    random = torch.rand(2, *shape, generator=problem.generator)
    probes = torch.cat([torch.zeros(1, *shape), torch.ones(1, *shape), random]).to(problem.device)
    name, seen = _input_of_first_linear(problem.model, probes)
    module = problem.model.get_submodule(name)
    label = f"the first linear layer {name!r}"
    if seen.ndim < 2 or seen[0].numel() != probes[0].numel():
        raise AttackFailed(
            f"{label} does not see the image: its input has shape {tuple(seen.shape[1:])}, the image "
            f"{shape}. Other layers, e.g. convolutions, come before it"
        )
    if seen.shape[-1] != probes[0].numel():
        raise AttackFailed(
            f"{label} sees the image piece by piece, {seen.shape[-1]} of {probes[0].numel()} values at a time"
        )
    pixels = per_pixel(probes, seen)
    if pixels is None:
        raise AttackFailed(
            f"{label} does not see the image pixel by pixel: what comes before it is no per-pixel "
            "normalisation"
        )
    scale, offset = pixels
    weight, bias = f"{name}.weight".lstrip("."), f"{name}.bias".lstrip(".")
    if module.bias is None:
        raise AttackFailed(f"{label} has no bias: its input is known only up to a factor")
    if weight not in problem.observed or bias not in problem.observed:
        raise AttackFailed(f"{label} was not trained: its weight or bias did not move")
    return FirstLayer(weight, bias, scale, offset)


def per_pixel(images: Tensor, seen: Tensor) -> tuple[Tensor, Tensor] | None:
    """Scale and offset, ``(D,)`` float64, that map each pixel of an image to one value of ``seen``.

    Args:
        images: ``(N, C, H, W)``: a black one, a white one, then random ones that test the map.
        seen: what became of them, ``(N, ...)``.

    Returns:
        None if there is no such map, or if it loses a pixel.
    """
    pixels, values = images.flatten(1).double(), seen.flatten(1).double()
    if values.shape != pixels.shape:
        return None
    offset, scale = values[0], values[1] - values[0]
    deviation = (values[2:] - (pixels[2:] * scale + offset)).abs().max()
    if float(deviation) > 1e-4 * float(values.abs().max() + 1) or bool((scale.abs() < 1e-8).any()):
        return None
    return scale, offset


def single_input(weight: Tensor, bias: Tensor) -> Tensor:
    """Least-squares ``x`` of ``weight = bias x^T``: ``(F, D)``, ``(F,)`` to ``(D,)``."""
    return bias @ weight / bias.square().sum()


def distinct_inputs(
    weight: Tensor, bias: Tensor, layer: FirstLayer, images: int, agreement: float
) -> tuple[Tensor, int]:
    """Inputs shown by single rows, mixtures of two images last, those that most rows agree on first.

    Args:
        weight: ``(F, D)`` float64.
        bias: ``(F,)`` float64.
        layer: to tell pixels from inputs.
        images: how many to return at most.
        agreement: root mean square pixel difference at which rows agree.

    Returns:
        Inputs ``(M, D)``, and how many of them several rows agree on.
    """
    strongest = bias.abs().argsort(descending=True, stable=True)[:MAX_ROWS]
    strongest = strongest[bias[strongest].abs() > 1e-6 * bias.abs().max()]
    weight, bias = weight[strongest], bias[strongest]
    inputs = weight / bias[:, None]
    pixels = (inputs - layer.offset) / layer.scale
    outside = (pixels.clamp(0, 1) - pixels).square().mean(1).sqrt()
    close = torch.cdist(pixels, pixels, compute_mode="donot_use_mm_for_euclid_dist")
    close = close <= agreement * pixels.shape[1] ** 0.5
    counts, rows, values = [], [], []
    free = torch.ones(len(pixels), dtype=torch.bool, device=pixels.device)
    for row in close.sum(1).argsort(descending=True, stable=True).tolist():
        if free[row]:
            group = close[row] & free
            free &= ~group
            counts.append(int(group.sum()))
            rows.append(row)
            values.append(single_input(weight[group], bias[group]))
    # A row active for two images shows a mixture: out of the box, or on the line between two others.
    strange = (outside[rows] > OUTSIDE).tolist()
    inside = [place for place, odd in enumerate(strange) if not odd][:MAX_GROUPS]
    for place, mixed in zip(inside, between(pixels[rows][inside]), strict=True):
        strange[place] = mixed
    order = sorted(range(len(rows)), key=lambda i: (strange[i], -counts[i], float(outside[rows[i]])))
    chosen = order[:images]
    confirmed = sum(counts[i] > 1 and not strange[i] for i in chosen)
    return torch.stack([values[i] for i in chosen]), confirmed


def between(points: Tensor) -> list[bool]:
    """For each of ``points`` ``(G, D)``, whether it lies on the line between two others."""
    distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    detour = distance[:, :, None] + distance[None, :, :]  # from a over m to b, indexed [a, m, b]
    straight = distance[:, None, :]
    proper = (distance[:, :, None] > 1e-6) & (distance[None, :, :] > 1e-6) & (straight > 1e-6)
    found: list[bool] = ((detour <= straight * (1 + 1e-7)) & proper).any(2).any(0).tolist()
    return found


def unexplained(weight: Tensor, bias: Tensor, inputs: Tensor) -> float:
    """Share of the layer's gradient outside the span of ``inputs``, by norm: 0 if they explain it all."""
    rows = torch.cat([weight, bias[:, None]], 1)
    basis = torch.cat([inputs, torch.ones_like(inputs[:, :1])], 1)
    fitted = torch.linalg.lstsq(basis.T.cpu(), rows.T.cpu()).solution
    return float((rows.T.cpu() - basis.T.cpu() @ fitted).norm() / rows.norm())


def _input_of_first_linear(model: nn.Module, images: Tensor) -> tuple[str, Tensor]:
    """Name and input of the linear layer that runs first."""
    seen: list[tuple[str, Tensor]] = []
    handles = [
        module.register_forward_pre_hook(
            lambda _, inputs, name=name: seen.append((name, inputs[0].detach().clone()))
        )
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        raise AttackFailed("the model has no linear layer (torch.nn.Linear), which this attack inverts")
    return seen[0]
