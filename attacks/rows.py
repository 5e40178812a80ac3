"""Several simulations on one axis: the restarts of a problem, and the clients of a round."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vmap

from fl_audit.attacks.problem import Named, Problem
from fl_audit.attacks.simulation import functional_gradient, simulate

logger = logging.getLogger(__name__)

Simulation = Callable[[Tensor], list[Tensor]]
"""From images ``(R, N, C, H, W)`` of R restarts to what each would have sent, one tensor ``(R, *shape)``
for each trained parameter, in the order of `Problem.parameters`; differentiable in the images."""


def simulation(problem: Problem, labels: Tensor, restarts: int) -> Simulation:
    """The simulation with a restart axis in front; ``labels`` int64 ``(N,)`` are shared.

    Several restarts run under `torch.func.vmap`: on LeNet, 8 restarts cost as much as 2.5. A model that
    vmap cannot handle, e.g. with control flow on values, is simulated restart by restart.
    """

    def one_by_one(images: Tensor) -> list[Tensor]:
        rows = [list(simulate(problem, restart, labels).values()) for restart in images]
        return [torch.stack(column) for column in zip(*rows, strict=True)]

    def together(images: Tensor) -> list[Tensor]:
        def one(restart: Tensor) -> Named:
            return simulate(problem, restart, labels, gradient=functional_gradient)

        return list(vmap(one)(images).values())

    if restarts > 1 and _runs(together, torch.zeros(2, problem.num_images, *problem.image_shape), problem):
        return together
    return one_by_one


def _runs(batched: Simulation, images: Tensor, problem: Problem) -> bool:
    try:
        batched(images.to(problem.device))
    except RuntimeError as error:
        logger.info("restarts are simulated one by one, since vmap fails: %s", error)
        return False
    return True
