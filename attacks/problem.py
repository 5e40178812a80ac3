"""The problem that an attack solves, prepared once: model, observed gradient, number of images, seed."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fl_audit.attacks._matching import load_sent, match_arrays
from fl_audit.attacks.clock import Clock
from fl_audit.core.errors import ConfigError
from fl_audit.core.progress import Progress
from fl_audit.core.seeding import torch_generator
from fl_audit.core.types import Knowledge, TrainingDetails, Update

MAX_IMAGES = 64
"""More images than this are not attempted unless their labels are granted."""

Named = dict[str, Tensor]
_Norm = nn.modules.batchnorm._NormBase


class AttackFailed(Exception):
    """An attack cannot work on this update or model; the message says why. It becomes a failed result."""


@dataclass(frozen=True)
class Problem:
    """One update, ready to be attacked. Everything is on ``device``.

    Attributes:
        model: copy of the architecture with the weights sent; dropout off, batch norm as the client ran it.
        parameters: the trained parameters as sent, by name, detached float32.
        constants: the other entries of the state dict (buffers, frozen parameters).
        buffers_sent: the buffers that travelled, as sent, by name: batch-norm statistics above all.
        buffers_received: the same as they came back.
        batch_norm: mean and variance of the client's data by module name, if granted.
        surrogate: images like the client's, ``(M, C, H, W)`` in [0, 1], if granted.
        observed: what to match, by parameter name: over several simulated steps ``-delta``; for one
            step the client's gradient where the training details give its scale, else ``-delta`` too, which
            is the gradient times an unknown positive factor.
        exact_scale: whether a simulation by `simulation.simulate` has the scale of ``observed``.
        step_sizes: images used in each local step to be simulated; one entry: a single gradient.
        training: how the client trained, if granted and simulated.
        labels: granted labels, int64 ``(N,)``, in order of use, or None.
        num_images: how many images to reconstruct, N.
        image_shape: ``(C, H, W)``.
        num_classes: number of classes, or None.
        generator: the attack's own source of randomness, on the CPU so that devices agree.
        device: where to compute.
        progress: the display.
        notes: what was assumed; attacks may add to it.
        clock: how long the attack may go on; clients attacked together share it.
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

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the images to reconstruct, ``(N, C, H, W)``."""
        return (self.num_images, *self.image_shape)


def prepare(
    update: Update, knowledge: Knowledge, *, seed: int, who: str, device: torch.device, progress: Progress
) -> Problem:
    """Prepare a `Problem`; the update must have passed `Update.problem`.

    Raises:
        ConfigError: the arrays are not those of the architecture granted, or the grant contradicts itself.
        AttackFailed: nothing moved, or what moved is not finite.
    """
    if knowledge.model is None or knowledge.image_shape is None:
        raise ConfigError(f"attack {who!r} must list model and image_shape among its needs")
    notes: list[str] = []
    names = match_arrays(update.sent, knowledge.model)
    model = copy.deepcopy(knowledge.model)
    load_sent(model, update.sent, names)
    delta = {
        ours: update.received[theirs].float() - update.sent[theirs].float()
        for ours, theirs in names.items()
        if update.sent[theirs].dtype.is_floating_point
    }
    training = _usable(knowledge.training, notes)
    _set_mode(model, _train_mode(model, delta, knowledge, notes))
    model.to(device=device, dtype=torch.float32)
    trained = _trained(model, delta, notes)
    labels = _labels(knowledge)
    count = _count(update, training, labels, notes)
    sizes = _step_sizes(count, update, training, notes)
    _simplifications(model, update, knowledge.training, count, notes)
    values = {name: p.detach() for name, p in model.named_parameters()}
    parameters = {name: values[name] for name in trained}
    everything = {**values, **dict(model.named_buffers())}
    buffers = {ours: theirs for ours, theirs in names.items() if ours not in values}
    observed = {name: -delta[name].to(device) for name in trained}
    if training is not None and len(sizes) == 1:
        rate, decay = training.learning_rate, training.weight_decay
        observed = {name: value / rate - decay * parameters[name] for name, value in observed.items()}
    if not any(bool(value.any()) for value in observed.values()):
        raise AttackFailed("no trained parameter moved: the update holds no gradient")
    if not all(bool(torch.isfinite(value).all()) for value in observed.values()):
        raise AttackFailed("the update is too large for float32: its gradient is infinite")
    return Problem(
        model=model,
        parameters=parameters,
        constants={name: value for name, value in everything.items() if name not in parameters},
        buffers_sent={ours: update.sent[theirs].to(device) for ours, theirs in buffers.items()},
        buffers_received={ours: update.received[theirs].to(device) for ours, theirs in buffers.items()},
        batch_norm=knowledge.batch_norm,
        surrogate=None if knowledge.surrogate is None else knowledge.surrogate.to(device),
        observed=observed,
        exact_scale=training is not None,
        step_sizes=sizes,
        training=training,
        labels=None if labels is None else labels.to(device),
        num_images=count,
        image_shape=knowledge.image_shape,
        num_classes=knowledge.num_classes,
        generator=torch_generator(seed, "attack", who),
        device=device,
        progress=progress,
        notes=notes,
    )


def _usable(training: TrainingDetails | None, notes: list[str]) -> TrainingDetails | None:
    """The training details if the local training can be simulated from them."""
    if training is None:
        return None
    if training.optimizer.lower() != "sgd":
        notes.append(
            f"the clients use the optimiser {training.optimizer!r}, which is not simulated: the update is "
            "treated as one gradient of unknown scale"
        )
        return None
    if not (training.learning_rate > 0 and math.isfinite(training.learning_rate)):
        raise ConfigError(f"training.learning_rate must be positive, got {training.learning_rate}")
    return training


def _train_mode(model: nn.Module, delta: Named, knowledge: Knowledge, notes: list[str]) -> bool:
    """Whether the client ran in train mode: granted, else seen from batch-norm statistics that moved."""
    if knowledge.training is not None:
        return knowledge.training.train_mode
    buffers = {
        f"{name}.{kind}".lstrip(".")
        for name, module in model.named_modules()
        if isinstance(module, _Norm) and module.running_mean is not None
        for kind in ("running_mean", "running_var")
    } & set(delta)
    if not buffers:
        return False
    moved = any(bool(delta[name].any()) for name in buffers)
    notes.append(f"batch-norm statistics {'moved: train' if moved else 'did not move: eval'} mode is assumed")
    return moved


def _set_mode(model: nn.Module, train: bool) -> None:
    """Eval mode, but for batch norm as the client ran it. Dropout stays off: its masks are unknown."""
    model.eval()
    for module in model.modules():
        if isinstance(module, _Norm) and train:
            # Batch statistics without running ones, so that a simulation changes no buffer.
            module.train()
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None


def _simplifications(
    model: nn.Module, update: Update, training: TrainingDetails | None, count: int, notes: list[str]
) -> None:
    """Note where the simulation is simpler than what the client did."""
    dropout = any(isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0 for m in model.modules())
    if dropout and (training is None or training.train_mode):
        notes.append("dropout is off in the simulation: which values the client dropped is unknown")
    if update.num_examples is not None and update.num_examples < count:
        notes.append(
            f"the client used {update.num_examples} images {count} times in all: each use is reconstructed "
            "as an image of its own"
        )


def _trained(model: nn.Module, delta: Named, notes: list[str]) -> list[str]:
    """Names of the parameters that the client trained."""
    names = [name for name, p in model.named_parameters() if p.requires_grad and name in delta]
    still = [name for name in names if not bool(delta[name].any())]
    if still:
        notes.append(f"left out as frozen, since they did not move: {', '.join(still[:5])}")
    return [name for name in names if name not in still]


def _labels(knowledge: Knowledge) -> Tensor | None:
    labels, classes = knowledge.labels, knowledge.num_classes
    if labels is None:
        return None
    fits = labels.ndim == 1 and labels.numel() > 0 and not labels.dtype.is_floating_point
    if not fits or (classes is not None and not bool(((labels >= 0) & (labels < classes)).all())):
        raise ConfigError(
            f"granted labels must be a non-empty list of classes from 0 to {(classes or 0) - 1}, got "
            f"{labels.tolist()[:10]}"
        )
    return labels.long()


def _count(update: Update, training: TrainingDetails | None, labels: Tensor | None, notes: list[str]) -> int:
    """How many images the client used, best source first."""
    if labels is not None:
        return int(labels.numel())
    told = update.num_examples
    if training is not None:
        count = training.batch_size * training.local_steps
        if told is not None:
            per_epoch = _chunks(told, training.batch_size)
            epochs = training.local_steps / len(per_epoch)
            if training.local_steps and epochs == int(epochs):
                count = told * int(epochs)  # the last step of an epoch may be short
    elif told is not None:
        count = told
        notes.append(f"the number of images, {told}, is what the client reports as num-examples")
    else:
        count = 1
        notes.append("the number of images is unknown: one is assumed")
    if count > MAX_IMAGES:
        notes.append(
            f"the client used {count} images; {MAX_IMAGES} are attempted, since a gradient mixed from more "
            "than that without known labels is beyond this attack"
        )
        return MAX_IMAGES
    return count


def _step_sizes(
    count: int, update: Update, training: TrainingDetails | None, notes: list[str]
) -> tuple[int, ...]:
    """Images in each local step to be simulated, in order of use."""
    if training is None:
        return (count,)
    steps, batch = training.local_steps, training.batch_size
    even = [batch] * steps
    told = update.num_examples or count
    short = (_chunks(told, batch) * math.ceil(steps / len(_chunks(told, batch))))[:steps]
    for sizes in (even, short):
        if sum(sizes) == count:
            return tuple(sizes)
    if steps > 1 or count != batch:
        notes.append(
            f"{count} images do not fill {steps} steps of {batch}: they are spread evenly over the steps"
        )
    steps = min(steps, count)
    return tuple(count // steps + (step < count % steps) for step in range(steps))


def _chunks(count: int, batch: int) -> list[int]:
    """Sizes of the mini-batches of one epoch: ``_chunks(10, 4) == [4, 4, 2]``."""
    return [min(batch, count - first) for first in range(0, count, batch)]
