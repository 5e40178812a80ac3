"""Several simulations on one axis: the restarts of a problem, and the clients of a round.

They share the global model, so that `torch.func.vmap` can simulate them together: eight LeNet rows cost as
much as three. A row of a large network fills a CPU core by itself; there rows run one after the other, each
in its own memory.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import vmap
from torch.utils.flop_counter import FlopCounterMode

from fl_audit.attacks.objectives import Objective
from fl_audit.attacks.problem import Named, Problem
from fl_audit.attacks.simulation import functional_gradient, simulate

logger = logging.getLogger(__name__)

SMALL_WORK = 20e6
"""Floating-point operations of one row's forward pass up to which a CPU spends its time on overhead."""

SMALL_MODEL = 200_000
"""Parameters up to which the rows' gradients side by side are cheaper than one after the other on a CPU."""

CPU_MEMORY = 2 * 2**30
"""Bytes that the rows simulated together may take on a CPU. Fixed, since another width rounds differently."""

CUDA_SHARE = 0.7
"""Share of a GPU's free memory that they may take there."""


@dataclass(frozen=True)
class Evaluated:
    """The objective of each row, ``(R,)``, and its gradient, ``(R, N, C, H, W)``."""

    totals: Tensor
    gradients: Tensor


class Rows:
    """Evaluates the objective for rows in the order problem by problem, each with its restarts.

    Args:
        problems: prepared problems that share a model: see `merged`.
        labels: int64 ``(N,)`` for each problem.
        restarts: rows of each problem.
        objective: distance of simulated and observed update.
    """

    def __init__(
        self, problems: Sequence[Problem], labels: Sequence[Tensor], restarts: int, objective: Objective
    ) -> None:
        self._problems = problems
        self._labels = torch.stack(list(labels))
        self._restarts = restarts
        self._objective = objective
        self._observed = [list(problem.observed.values()) for problem in problems]
        self.width = self._calibrated(len(problems) * restarts)

    def __call__(self, images: Tensor, active: Sequence[int]) -> Evaluated:
        """Evaluate the ``active`` rows of ``images`` ``(R, N, C, H, W)``; the others get inf and 0.

        Where memory runs out, the width is halved, for good, and the evaluation goes on.
        """
        totals = torch.full((len(images),), torch.inf, device=images.device)
        gradients = torch.zeros_like(images)
        waiting = list(active)
        while waiting:
            rows = waiting[: self.width]
            try:
                part = self._evaluate(images[rows].detach(), rows)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if self.width == 1 or not _is_out_of_memory(error):
                    raise
                self._halve(error)
                continue
            totals[rows], gradients[rows] = part.totals, part.gradients
            waiting = waiting[len(rows) :]
        return Evaluated(totals, gradients)

    def _evaluate(self, images: Tensor, rows: Sequence[int]) -> Evaluated:
        images.requires_grad_()
        owners = [row // self._restarts for row in rows]
        totals = self._objective(self._simulated(images, owners), self._seen(owners))
        (gradients,) = torch.autograd.grad(totals.sum(), images)
        return Evaluated(totals.detach(), gradients)

    def _simulated(self, images: Tensor, owners: Sequence[int]) -> list[Tensor]:
        """What each row would have sent, one tensor ``(R, *shape)`` for each trained parameter."""
        problem = self._problems[0]
        if len(owners) == 1:
            alone = simulate(problem, images[0], self._labels[owners[0]])
            return [value[None] for value in alone.values()]

        def one(row: Tensor, labels: Tensor) -> Named:
            return simulate(problem, row, labels, gradient=functional_gradient)

        return list(vmap(one)(images, self._labels[owners]).values())

    def _seen(self, owners: Sequence[int]) -> list[Tensor]:
        """The observed update of each row; without a row axis where all belong to one client."""
        if len(set(owners)) == 1:
            return self._observed[owners[0]]
        return [torch.stack(column) for column in zip(*(self._observed[o] for o in owners), strict=True)]

    def _calibrated(self, rows: int) -> int:
        """How many rows to simulate together: counted, not timed, so that equal runs round equally."""
        problem = self._problems[0]
        if rows == 1 or (problem.device.type == "cpu" and not small_work(problem.model, problem.shape)):
            return 1
        images = torch.full((2, *problem.shape), 0.5, device=problem.device)
        try:
            with torch.no_grad():
                self._simulated(images, [0, 0])
        except RuntimeError as error:
            logger.info("rows are simulated one by one, since vmap fails: %s", error)
            return 1
        return int(max(1, min(rows, _memory(problem.device) // self._bytes_of_a_row(images[0]))))

    def _bytes_of_a_row(self, image: Tensor) -> int:
        """What autograd keeps for one row, and the update itself a few times over."""
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with saved_tensors_hooks(keep, lambda tensor: tensor):
            self._evaluate(image[None].clone(), [0])
        update = sum(value.numel() * 4 for value in self._observed[0])
        return sum(kept.values()) + 4 * update

    def _halve(self, error: BaseException) -> None:
        self.width //= 2
        for problem in self._problems:
            problem.notes.append(
                f"memory ran out on {problem.device}: from then on {self.width} rows were simulated at once"
            )
        logger.warning("memory ran out, %s rows at once from now on: %s", self.width, error)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def merged(problems: Sequence[Problem]) -> list[list[int]]:
    """Groups of places in ``problems`` that can share one axis: same weights, steps, shapes and training."""
    groups: list[list[int]] = []
    for place, problem in enumerate(problems):
        for group in groups:
            if _alike(problems[group[0]], problem):
                group.append(place)
                break
        else:
            groups.append([place])
    return groups


def sharing(problems: Sequence[Problem]) -> list[Problem]:
    """The same problems with one model in memory, the first one's."""
    first = problems[0]
    return [
        replace(problem, model=first.model, parameters=first.parameters, constants=first.constants)
        for problem in problems
    ]


def small_work(model: nn.Module, shape: Sequence[int]) -> bool:
    """Whether one row's work is so small that a CPU gains from several rows on one axis.

    Args:
        model: any model.
        shape: ``(N, C, H, W)`` of one row.
    """
    if not is_small(model):
        return False
    device = next(iter(model.parameters())).device
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(torch.zeros(tuple(shape), device=device))
    return counter.get_total_flops() <= SMALL_WORK


def is_small(model: nn.Module) -> bool:
    """Whether a model has few parameters."""
    return sum(parameter.numel() for parameter in model.parameters()) <= SMALL_MODEL


def _alike(one: Problem, other: Problem) -> bool:
    same = (
        one.step_sizes == other.step_sizes
        and one.training == other.training
        and one.shape == other.shape
        and one.exact_scale == other.exact_scale
        and one.proximal == other.proximal
        and one.loss == other.loss
        and not (one.cohort or other.cohort)
        and (one.uses is None) == (other.uses is None)
        and (one.uses is None or other.uses is None or torch.equal(one.uses, other.uses))
        and list(one.observed) == list(other.observed)
        and list(one.constants) == list(other.constants)
        and [m.training for m in one.model.modules()] == [m.training for m in other.model.modules()]
    )
    return same and all(
        torch.equal(value, theirs[name])
        for mine, theirs in ((one.parameters, other.parameters), (one.constants, other.constants))
        for name, value in mine.items()
    )


def _memory(device: torch.device) -> float:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free * CUDA_SHARE
    return CPU_MEMORY


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
