"""Exact recovery of small batches through a first linear layer that is followed by ReLU."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fl_audit.attacks._registry import attacks
from fl_audit.attacks._spear_recovery import SAMPLES, Recovered, recover_inputs
from fl_audit.attacks.analytic import FirstLayer, first_layer
from fl_audit.attacks.base import Attack
from fl_audit.attacks.client_optimisers import SGD
from fl_audit.attacks.problem import AttackFailed, Problem
from fl_audit.core.types import Reconstruction

__all__ = ["Recovered", "Spear", "recover_inputs"]

PROBES = 8
"""Random images by which the model is tested for ReLU."""


@attacks.register("spear")
class Spear(Attack):
    """All images of a small batch, exactly, where the first layer is linear with a bias and followed by ReLU.

    Dimitrov, Baader, Müller and Vechev, "SPEAR: Exact Gradient Inversion of Batches in Federated Learning",
    NeurIPS 2024, https://arxiv.org/abs/2403.03945. For b images the gradient of the layer
    ``Z = W X + bias`` is ``dL/dW = dL/dZ X^T``, of rank b, so that a factorisation ``dL/dW = L R`` gives
    ``dL/dZ = L Q`` and ``X^T = Q^-1 R`` for an invertible b x b matrix Q. ReLU makes dL/dZ sparse: a column
    of Q is the null vector of b - 1 rows of L whose neurons are off for the same image. Columns are sampled,
    told apart by their zeros, and accepted if zeros and the signs of the recovered Z agree; the bias
    gradient fixes their scale.

    Differs in: the neurons that are off for one image lie on one side of a plane that is known, since W is,
    so that b - 1 rows are not drawn at random but in the order of the pre-activations of a guessed image.
    This takes hundreds of draws where random rows take exponentially many in b. A column is accepted if a
    plane separates its zeros from the rest and no single neuron decides it, not by a bound on their number.
    What is known of the images found narrows the guesses at the others; the last one follows from them.
    The bias gradient is a further column of the weight gradient, which fixes the scales. What is zero is
    decided by the noise that the singular values show.

    The scale of the gradient cancels, and neither labels nor loss are needed. Over several local steps of
    SGD the columns are sums over the steps, so images that are used again come out once, and the signs are
    those of the weights sent: exact while few neurons change sign on the way.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model", "image_shape"})
    uses: ClassVar[frozenset[str]] = frozenset({"training", "labels"})
    paper: ClassVar[str] = (
        "Dimitrov et al., SPEAR: Exact Gradient Inversion of Batches in Federated Learning, NeurIPS 2024, "
        "https://arxiv.org/abs/2403.03945"
    )
    works: ClassVar[str] = (
        "networks whose first layer is linear with a bias and followed by ReLU: up to about a tenth of its "
        "width in images, exactly; a few local steps of SGD"
    )

    samples: int = Field(SAMPLES, ge=256, le=10_000_000, description="directions to draw at most")
    agreement: float = Field(
        0.95,
        gt=0.5,
        le=1,
        description="share of all neurons and images whose sign must agree with the gradient",
    )

    def _reconstruct(self, problem: Problem) -> Reconstruction:
        if problem.training is not None and problem.training.optimizer != "sgd":
            raise AttackFailed(
                f"a step of {problem.training.optimizer!r} is no product of gradients and images: its "
                "coordinates are rescaled one by one. Use an attack that simulates the optimiser"
            )
        layer = first_layer(problem)
        check_relu(problem, layer)
        weight, bias = (problem.parameters[name].double() for name in (layer.weight, layer.bias))
        found = recover_inputs(
            _undecayed(problem, layer.weight),
            _undecayed(problem, layer.bias),
            weight,
            bias,
            generator=problem.generator,
            expected=problem.num_images,
            samples=self.samples,
            proceed=lambda columns, images, _: self._proceed(problem, columns, images),
        )
        self._judge(problem, found)
        images = (found.inputs - layer.offset) / layer.scale
        return Reconstruction(
            "done",
            images=images.float().view(-1, *problem.image_shape),
            objective=found.unexplained,
        )

    @staticmethod
    def _proceed(problem: Problem, columns: int, images: int) -> bool:
        problem.progress.step(columns, images)
        return not problem.clock.over()

    def _judge(self, problem: Problem, found: Recovered) -> None:
        """Raise `AttackFailed` unless signs and gradient agree; say what was assumed and how sure it is."""
        count, share = len(found.inputs), float(found.agreement.mean())
        if share < self.agreement:
            raise AttackFailed(
                f"no consistent solution: the best one has the wrong sign in {1 - share:.1%} of all neurons "
                f"(parameter agreement allows {1 - self.agreement:.1%})"
            )
        if count != problem.num_images:
            problem.notes.append(
                f"the gradient is made of {count} different inputs, though {problem.num_images} images are "
                "expected: images that are equal, or whose gradients are, come out as one"
            )
        exact = int((found.agreement == 1).sum())
        problem.notes.append(
            f"{exact} of {count} images agree with the gradient in the sign of every neuron; "
            f"{share:.2%} of the signs agree"
        )
        if len(problem.step_sizes) > 1 or problem.training is None:
            problem.notes.append("the update is treated as one step's gradient")


def check_relu(problem: Problem, layer: FirstLayer) -> None:
    """Raise `AttackFailed` unless the layer is followed by ReLU.

    Its output is replaced by random values: ReLU passes no gradient back to the negative ones.
    """
    name = layer.weight.removesuffix("weight").rstrip(".")
    replaced: list[Tensor] = []

    def replace_output(_module: object, _inputs: object, output: Tensor) -> Tensor | None:
        if replaced:
            return None
        size = output.detach().std().clamp(min=1e-3)
        noise = torch.randn(output.shape, generator=problem.generator).to(output)
        replaced.append((size * noise).requires_grad_())
        return replaced[0].clone()  # in case that ReLU works in place

    images = torch.rand(PROBES, *problem.image_shape, generator=problem.generator).to(problem.device)
    handle = problem.model.get_submodule(name).register_forward_hook(replace_output)
    try:
        with torch.enable_grad():
            logits = problem.logits(problem.parameters, images)
            if not logits.requires_grad:
                raise AttackFailed(f"the output of the first linear layer {name!r} takes no part in the loss")
            mixture = torch.randn(logits.shape, generator=problem.generator).to(logits)
            (slope,) = torch.autograd.grad((logits * mixture).sum(), replaced[0])
    finally:
        handle.remove()
    negative = replaced[0] < 0
    if bool(slope[negative].any()):
        raise AttackFailed(
            f"the first linear layer {name!r} is not followed by ReLU: its negative outputs take part in the "
            "loss. Only ReLU makes its gradient sparse"
        )
    if float((slope[~negative] != 0).double().mean()) < 0.5:
        raise AttackFailed(
            f"the first linear layer {name!r} is not followed by ReLU: most positive outputs take no part in "
            "the loss"
        )


def _undecayed(problem: Problem, name: str) -> Tensor:
    """The observed sum of gradients of a parameter, float64, without what weight decay did over the steps."""
    observed, training = problem.observed[name].double(), problem.training
    steps = len(problem.step_sizes)
    if training is None or not training.weight_decay or steps == 1:
        return observed
    optimiser = SGD(training)
    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    state = (one, *[zero] * optimiser.slots)
    for number in range(steps):
        state = optimiser.step(number, state, (zero,))
    return observed - (1 - float(state[0])) * problem.parameters[name].double()
