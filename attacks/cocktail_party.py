"""Images of a batch as the independent components of a first linear layer's gradient."""

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fl_audit.attacks._mixtures import Mixtures, mixtures, rank_of_gradient
from fl_audit.attacks._registry import attacks
from fl_audit.attacks._relu_rows import exact_sources
from fl_audit.attacks._unmixing import Criterion, differences, separate
from fl_audit.attacks.analytic import FirstLayer, first_layer
from fl_audit.attacks.base import Attack
from fl_audit.attacks.problem import AttackFailed, Problem
from fl_audit.core.types import Reconstruction

AGAIN = 200
"""Steps of Adam where some of the images are known already and the rest are separated anew."""


@attacks.register("cocktail-party")
class CocktailParty(Attack):
    """Separates a batch like voices at a party: independent components of a linear layer's gradient.

    Kariyappa et al., "Cocktail Party Attack: Breaking Aggregation-Based Privacy in Federated Learning using
    Independent Component Analysis", ICML 2023, https://arxiv.org/abs/2209.05578: each row of the gradient of
    a first linear layer is a mixture of the images; centred and whitened mixtures are unmixed by descent on
    the negentropy of the result, its total variation, and a penalty on unmixing vectors that are alike.
    ``contrast=values,box=0`` is that objective.

    Differs in: the gradient of the bias is a further pixel that is 1 in each image, so scale and sign of an
    image are exact where the paper guesses them, and pixels outside of [0, 1] can be penalised (``box``). By
    default the contrast is that of the differences between neighbouring pixels, which are far more
    independent from image to image than the pixels are, and the descent starts from FastICA on them. The
    number of images is the rank of the gradient where noise does not hide it. ``units=relu`` goes on to what
    is exact in ReLU networks, see `_relu_rows`, which the paper does not know.

    Any number of local steps of SGD mixes images in the same way; the scale of the gradient cancels, and
    neither labels nor loss are needed.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model", "image_shape"})
    uses: ClassVar[frozenset[str]] = frozenset({"training", "labels"})
    paper: ClassVar[str] = (
        "Kariyappa et al., Cocktail Party Attack: Breaking Aggregation-Based Privacy in Federated Learning "
        "using Independent Component Analysis, ICML 2023, https://arxiv.org/abs/2209.05578"
    )
    works: ClassVar[str] = (
        "networks whose first layer is linear with a bias and has more units than the update has images, up "
        "to 64 natural images, any number of local SGD steps"
    )

    iterations: int = Field(500, ge=1, le=1_000_000, description="steps of Adam on the unmixing matrix")
    contrast: Literal["differences", "values"] = Field(
        "differences",
        description="what must look independent: differences of neighbours, or pixels as in the paper",
    )
    tv: float = Field(2.0, ge=0, description="weight of total variation (contrast=values only)")
    independence: float = Field(
        0.01, ge=0, description="weight of the penalty on unmixing vectors that are alike"
    )
    temperature: float = Field(12.4, gt=0, le=60, description="sharpness of that penalty")
    box: float = Field(1.0, ge=0, description="weight of the penalty on pixels outside of [0, 1]")
    units: Literal["any", "relu"] = Field(
        "any",
        description="relu: also use that units switched off for an image have no gradient from it: exact",
    )

    def _reconstruct(self, problem: Problem) -> Reconstruction:
        if problem.training is not None and problem.training.optimizer != "sgd":
            raise AttackFailed(
                f"a step of {problem.training.optimizer!r} is no mixture of the images: its coordinates are "
                "rescaled one by one. Use an attack that simulates the optimiser"
            )
        layer = first_layer(problem)
        # In pixels: G = A (X * scale + offset) and b = A 1 give (G - b offset^T) / scale = A X.
        bias = problem.observed[layer.bias].double()
        weight = (problem.observed[layer.weight].double() - bias[:, None] * layer.offset) / layer.scale
        mixed = mixtures(weight, bias, _sources(problem, rank_of_gradient(weight, bias)))
        found = separate(
            mixed.basis,
            self._criterion(),
            shape=problem.image_shape,
            generator=problem.generator,
            device=problem.device,
            clock=problem.clock,
            progress=lambda done, value: problem.progress.step(done, self.iterations, value),
        )
        unmixing = found.unmixing
        if self.units == "relu":
            unmixing = self._exact(problem, mixed, unmixing, layer)
        pixels = (unmixing @ mixed.basis)[:, :-1]
        if not bool(torch.isfinite(pixels).all()):
            raise AttackFailed("the unmixing diverged: the gradient holds no separable images")
        return Reconstruction(
            "done",
            images=pixels.float().view(-1, *problem.image_shape),
            objective=found.total,
            iterations=found.iterations,
        )

    def _criterion(self) -> Criterion:
        return Criterion(
            contrast=self.contrast,
            iterations=self.iterations,
            variation=self.tv,
            independence=self.independence,
            temperature=self.temperature,
            box=self.box,
        )

    def _exact(self, problem: Problem, mixed: Mixtures, unmixing: Tensor, layer: FirstLayer) -> Tensor:
        """Continue from approximate images to those that the ReLU units confirm."""
        rows = mixed.rows.to(problem.device)
        weight = problem.parameters[layer.weight][rows].double()
        bias = problem.parameters[layer.bias][rows].double() + weight @ layer.offset
        weight, bias = (weight * layer.scale).cpu(), bias.cpu()

        def again(basis: Tensor) -> Tensor:
            return separate(
                basis,
                replace(self._criterion(), iterations=min(self.iterations, AGAIN)),
                shape=problem.image_shape,
                generator=problem.generator,
                device=problem.device,
                clock=problem.clock,
            ).unmixing

        result = exact_sources(
            mixed,
            unmixing,
            preactivations=lambda pixels: pixels @ weight.T + bias,
            separate=again,
            details=lambda rows: differences(rows[:, :-1].reshape(-1, *problem.image_shape)),
            clock=problem.clock,
        )
        problem.notes.append(
            f"{result.confirmed} of {len(unmixing)} images are confirmed by units of {layer.weight!r} that "
            "they switch off"
        )
        return result.unmixing


def _sources(problem: Problem, rank: int | None) -> int:
    """How many images to unmix: the rank of the gradient if it shows, else what is known or reported."""
    told = problem.num_images
    if rank is None or rank == told:
        return told
    if rank > told:
        problem.notes.append(
            f"the gradient has rank {rank}, so that it mixes at least {rank} different images, not {told}"
        )
    else:
        problem.notes.append(
            f"the gradient has rank {rank} for {told} images: either images repeat, or the layer has too "
            "few active units to separate all"
        )
    return rank
