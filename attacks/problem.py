"""The problem that an attack solves, prepared once: model, observed gradient, number of images, seed."""

import copy
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fl_audit.attacks._arrays import Arrays, Named, read_arrays
from fl_audit.attacks._client_model import note_dropout, set_mode, train_mode
from fl_audit.attacks._failed import AttackFailed
from fl_audit.attacks._granted import granted_labels, proximal_weight, simulated
from fl_audit.attacks._matching import load_sent
from fl_audit.attacks._plan import MAX_IMAGES, Plan, make_plan
from fl_audit.attacks._probe import check_model, in_bounded_memory
from fl_audit.attacks.client_optimisers import rate_of, total_rate
from fl_audit.attacks.clock import Clock
from fl_audit.attacks.losses import Loss, mean_cross_entropy
from fl_audit.attacks.plain_ops import plain_ops
from fl_audit.attacks.unroll import Unrolling
from fl_audit.core.errors import ConfigError
from fl_audit.core.progress import Progress
from fl_audit.core.seeding import torch_generator
from fl_audit.core.types import Knowledge, TrainingDetails, Update

__all__ = ["MAX_IMAGES", "AttackFailed", "Named", "Problem", "prepare"]


@dataclass(frozen=True)
class Problem:
    """One update, ready to be attacked. Everything is on ``device``.

    Attributes:
        model: copy of the architecture with the weights sent; dropout off, batch norm as the client ran it.
        parameters: the trained parameters as sent, by name, detached float32.
        constants: the other entries of the state dict (buffers, frozen parameters).
        buffers_sent: the buffers that travelled both ways, as sent, by name: batch-norm statistics above all.
        buffers_received: the same as they came back.
        batch_norm: mean and variance of the client's data by module name, if granted.
        surrogate: images like the client's, ``(M, C, H, W)`` in [0, 1], if granted.
        observed: what to match, by parameter name: the client's gradient where the update shows it to scale,
            which is one step of SGD with known details, or a gradient sent as such; else ``-delta``, over
            one step of unknown details the gradient times an unknown positive factor.
        exact_scale: whether a simulation by `simulation.simulate` has the scale of ``observed``.
        step_sizes: images used in each local step to be simulated, U in all.
        training: how the client trained, if granted and simulated.
        labels: granted labels, int64 ``(N,)``, in order of first use, or None.
        num_images: how many images to reconstruct, N.
        image_shape: ``(C, H, W)``.
        num_classes: number of classes, or None.
        generator: the attack's own source of randomness, on the CPU so that devices agree.
        device: where to compute.
        progress: the display.
        notes: what was assumed; attacks may add to it.
        clock: how long the attack may go on; clients attacked together share it.
        uses: int64 ``(U,)``, the image of each use, where images are used in several passes; None: each is
            used once, in order.
        proximal: weight of the squared distance to the model sent in the client's loss (FedProx).
        loss: what the client minimises.
        plain: whether the model runs with `plain_ops.plain_ops`.
        checkpointed: whether local steps are simulated in bounded memory; see `unroll`.
        forward_mode: whether the model can be differentiated in forward mode there.
    """

    model: nn.Module
    parameters: Named
    constants: Named
    buffers_sent: Named
    buffers_received: Named
    batch_norm: Mapping[str, tuple[Tensor, Tensor]] | None
    surrogate: Tensor | None
    observed: Named
    exact_scale: bool
    step_sizes: tuple[int, ...]
    training: TrainingDetails | None
    labels: Tensor | None
    num_images: int
    image_shape: tuple[int, int, int]
    num_classes: int | None
    generator: torch.Generator
    device: torch.device
    progress: Progress
    notes: list[str] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)
    uses: Tensor | None = None
    proximal: float = 0.0
    loss: Loss = mean_cross_entropy
    plain: bool = False
    checkpointed: bool = False
    forward_mode: bool = True

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the images to reconstruct, ``(N, C, H, W)``."""
        return (self.num_images, *self.image_shape)

    @property
    def is_gradient(self) -> bool:
        """Whether ``observed`` is one gradient of all images, at least up to a positive factor."""
        return len(self.step_sizes) == 1 and (self.training is None or self.training.optimizer == "sgd")

    def logits(self, parameters: Named, images: Tensor) -> Tensor:
        """The model's output at ``parameters``."""
        with plain_ops() if self.plain else nullcontext():
            made: Tensor = functional_call(self.model, {**self.constants, **parameters}, (images,))
        return made

    def loss_at(self, parameters: Named, images: Tensor, labels: Tensor) -> Tensor:
        """The client's loss at ``parameters``, less FedProx's distance."""
        return self.loss(self.logits(parameters, images), labels)

    def unrolling(self, *, functional: bool = False) -> Unrolling:
        """How to simulate several local steps; see `Unrolling`.

        Raises:
            ValueError: the training details are unknown.
        """
        if self.training is None:
            raise ValueError("local steps cannot be simulated without the training details")
        return Unrolling(
            start=self.parameters,
            loss=self.loss_at,
            details=self.training,
            sizes=self.step_sizes,
            proximal=self.proximal,
            checkpointed=self.checkpointed,
            forward_mode=self.forward_mode,
            functional=functional,
        )

    @property
    def gradient_scale(self) -> float | None:
        """Factor on the clients' mean gradient over all steps that ``observed`` has.

        None if it is unknown, or if the optimiser does not add up gradients.
        """
        if self.training is None or self.training.optimizer != "sgd":
            return 1.0 if self.exact_scale and self.training is None else None
        return 1.0 if len(self.step_sizes) == 1 else total_rate(self.training, len(self.step_sizes))

    @property
    def first_pass(self) -> tuple[int, ...]:
        """Images in each of the steps that use the N images for the first time."""
        ends = list(accumulate(self.step_sizes))
        steps = sum(end <= self.num_images for end in ends)
        return self.step_sizes[:steps]


def prepare(
    update: Update,
    knowledge: Knowledge,
    *,
    seed: int,
    who: str,
    device: torch.device,
    progress: Progress,
    loss: Loss = mean_cross_entropy,
) -> Problem:
    """Prepare a `Problem`; ``loss`` is the one that ``knowledge`` names.

    Raises:
        ConfigError: the arrays sent are not those of the architecture granted, or the grant contradicts
            itself.
        AttackFailed: the client failed, what came back is no answer to what was sent, nothing moved, or
            what moved is not finite.
    """
    if knowledge.model is None or knowledge.image_shape is None:
        raise ConfigError(f"attack {who!r} must list model and image_shape among its needs")
    if update.error is not None:
        raise AttackFailed(f"the client failed: {update.error}")
    notes: list[str] = []
    arrays = read_arrays(update, knowledge.model, knowledge.sends, notes)
    model = copy.deepcopy(knowledge.model)
    load_sent(model, arrays.sent)
    details = knowledge.training
    set_mode(model, train=train_mode(model, arrays.change, details, notes))
    note_dropout(model, details, notes)
    model.to(device=device, dtype=torch.float32)
    trained = _trained(model, arrays.change, notes)
    training = simulated(details, notes)
    plan = make_plan(update.num_examples, details, granted_labels(knowledge), notes)
    if training is None or arrays.sends == "gradient":
        training, plan = None, replace(plan, step_sizes=(plan.num_images,), uses=None)
    values = {name: p.detach() for name, p in model.named_parameters()}
    parameters = {name: values[name] for name in trained}
    everything = {**values, **dict(model.named_buffers())}
    buffers = [name for name in arrays.received if name not in values]
    problem = Problem(
        model=model,
        parameters=parameters,
        constants={name: value for name, value in everything.items() if name not in parameters},
        buffers_sent={name: arrays.sent[name].to(device) for name in buffers},
        buffers_received={name: arrays.received[name].to(device) for name in buffers},
        batch_norm=knowledge.batch_norm,
        surrogate=None if knowledge.surrogate is None else knowledge.surrogate.to(device),
        observed=_observed(arrays, parameters, training, plan),
        exact_scale=training is not None or arrays.sends == "gradient",
        step_sizes=plan.step_sizes,
        training=training,
        labels=None if plan.labels is None else plan.labels.to(device),
        num_images=plan.num_images,
        image_shape=knowledge.image_shape,
        num_classes=knowledge.num_classes,
        generator=torch_generator(seed, "attack", who),
        device=device,
        progress=progress,
        notes=notes,
        uses=None if plan.uses is None else plan.uses.to(device),
        proximal=proximal_weight(update, notes) if len(plan.step_sizes) > 1 else 0.0,
        loss=loss,
    )
    return _probed(problem, knowledge)


def _probed(problem: Problem, knowledge: Knowledge) -> Problem:
    """Look at the model, on images that nobody holds."""
    drawn = torch.rand(problem.shape, generator=torch_generator(0, "probe")).to(problem.device)
    first = drawn[: problem.step_sizes[0]]
    plain = check_model(lambda images: problem.logits(problem.parameters, images), first, problem.num_classes)
    problem = replace(problem, plain=plain)
    if problem.is_gradient or knowledge.loss is None:
        return problem
    labels = torch.zeros(len(drawn), dtype=torch.int64, device=problem.device)
    plan = in_bounded_memory(problem.unrolling(), drawn, labels)
    return replace(problem, checkpointed=plan.checkpointed, forward_mode=plan.forward_mode)


def _observed(arrays: Arrays, parameters: Named, training: TrainingDetails | None, plan: Plan) -> Named:
    """See `Problem.observed`."""
    observed = {name: -arrays.change[name].to(value.device) for name, value in parameters.items()}
    if training is not None and training.optimizer == "sgd" and len(plan.step_sizes) == 1:
        # The first step of Nesterov's momentum moves by the gradient and, once more, its buffer.
        factor = rate_of(training, 0) * (1 + training.momentum if training.nesterov else 1)
        decay = training.weight_decay
        observed = {name: value / factor - decay * parameters[name] for name, value in observed.items()}
    if not any(bool(value.any()) for value in observed.values()):
        raise AttackFailed("no trained parameter moved: the update holds no gradient")
    if not all(bool(torch.isfinite(value).all()) for value in observed.values()):
        raise AttackFailed("the update is too large for float32: its gradient is infinite")
    return observed


def _trained(model: nn.Module, change: Named, notes: list[str]) -> list[str]:
    """Names of the parameters that the client trained."""
    names = [name for name, p in model.named_parameters() if p.requires_grad and name in change]
    still = [name for name in names if not bool(change[name].any())]
    if still:
        notes.append(f"left out as frozen, since they did not move: {', '.join(still[:5])}")
    return [name for name in names if name not in still]
