"""The problem that an attack solves, prepared once: model, observed gradient, number of images, seed."""

import copy
import math
from dataclasses import replace

import torch
from torch import nn

from fl_audit.attacks._arrays import Arrays, Named, read_arrays
from fl_audit.attacks._client_model import note_dropout, set_mode, train_mode, uses_batch_statistics
from fl_audit.attacks._cohort import Layout, lay_out
from fl_audit.attacks._failed import AttackFailed
from fl_audit.attacks._granted import proximal_weight
from fl_audit.attacks._image_count import images_shown
from fl_audit.attacks._matching import load_sent
from fl_audit.attacks._plan import MAX_IMAGES
from fl_audit.attacks._probe import check_model, in_bounded_memory
from fl_audit.attacks._problem import Member, Problem
from fl_audit.attacks.client_optimisers import rate_of
from fl_audit.attacks.losses import Loss, mean_cross_entropy
from fl_audit.core.errors import ConfigError
from fl_audit.core.knowledge import Knowledge
from fl_audit.core.progress import Progress
from fl_audit.core.seeding import torch_generator
from fl_audit.core.types import TrainingDetails, Update

__all__ = ["MAX_IMAGES", "AttackFailed", "Named", "Problem", "prepare"]

_CLIPPED = 1e-3
"""A gradient that is shorter than the norm at which it would be clipped, by less than this, may have been."""


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
    gradient = arrays.sends == "gradient"
    whole = all(name in arrays.change for name, p in model.named_parameters() if p.requires_grad)
    layout = lay_out(
        update,
        knowledge,
        batch_statistics=uses_batch_statistics(model),
        gradient=gradient,
        shown=_shown(update, knowledge, model, arrays),
        notes=notes,
    )
    plan, training = layout.plan, layout.training
    if training is not None and training.clip_norm is not None and not whole:
        notes.append(
            "gradients were clipped together with those of parameters that the update lacks: by how much is "
            "not known exactly"
        )
    values = {name: p.detach() for name, p in model.named_parameters()}
    parameters = {name: values[name] for name in trained}
    everything = {**values, **dict(model.named_buffers())}
    # The mean of several clients' statistics is that of no batch.
    buffers = [name for name in arrays.received if name not in values and not layout.members]
    observed = _observed(arrays, parameters, layout)
    problem = Problem(
        model=model,
        parameters=parameters,
        constants={name: value for name, value in everything.items() if name not in parameters},
        buffers_sent={name: arrays.sent[name].to(device) for name in buffers},
        buffers_received={name: arrays.received[name].to(device) for name in buffers},
        batch_norm=knowledge.batch_norm,
        surrogate=None if knowledge.surrogate is None else knowledge.surrogate.to(device),
        observed=observed,
        exact_scale=(gradient or training is not None)
        and _unclipped(observed, knowledge, layout, whole=whole),
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
        left_out=plan.left_out,
    )
    members = tuple(
        Member(
            weight,
            replace(
                problem,
                num_images=plan.num_images,
                step_sizes=plan.step_sizes,
                uses=None if plan.uses is None else plan.uses.to(device),
                training=training,
            ),
        )
        for weight, plan, training in layout.members
    )
    return _probed(replace(problem, cohort=members), knowledge)


def _probed(problem: Problem, knowledge: Knowledge) -> Problem:
    """Look at the model, on images that nobody holds."""
    drawn = torch.rand(problem.shape, generator=torch_generator(0, "probe")).to(problem.device)
    first = drawn[: problem.step_sizes[0]]
    looks = check_model(lambda images: problem.logits(problem.parameters, images), first, problem.num_classes)
    plain = looks.plain
    problem = replace(problem, plain=plain, kinked=looks.kinked, max_pooled=looks.max_pooled)
    if problem.is_gradient or knowledge.loss is None:
        return problem
    labels = torch.zeros(len(drawn), dtype=torch.int64, device=problem.device)
    members = problem.cohort or (Member(1.0, problem),)
    plans = [replace(member.problem, plain=plain).unrolling() for member in members]
    checkpointed, forward_mode = in_bounded_memory(plans, drawn, labels)

    def informed(one: Problem) -> Problem:
        return replace(one, plain=plain, checkpointed=checkpointed, forward_mode=forward_mode)

    cohort = tuple(replace(member, problem=informed(member.problem)) for member in problem.cohort)
    return replace(informed(problem), cohort=cohort)


def _shown(update: Update, knowledge: Knowledge, model: nn.Module, arrays: Arrays) -> int | None:
    """How many images the update itself shows, where nobody says."""
    said = (update.num_examples, knowledge.training, knowledge.labels)
    if knowledge.image_shape is None or knowledge.cohort or any(value is not None for value in said):
        return None
    return images_shown(
        model, arrays.change, knowledge.image_shape, sent_back=arrays.sends not in ("delta", "gradient")
    )


def _observed(arrays: Arrays, parameters: Named, layout: Layout) -> Named:
    """See `Problem.observed`."""
    training = layout.training
    observed = {name: -arrays.change[name].to(value.device) for name, value in parameters.items()}
    if training is not None and _is_one_sgd_step(layout, training):
        # The first step of Nesterov's momentum moves by the gradient and, once more, its buffer.
        factor = rate_of(training, 0) * (1 + training.momentum if training.nesterov else 1)
        decay = training.weight_decay
        observed = {name: value / factor - decay * parameters[name] for name, value in observed.items()}
    if not any(bool(value.any()) for value in observed.values()):
        raise AttackFailed("no trained parameter moved: the update holds no gradient")
    if not all(bool(torch.isfinite(value).all()) for value in observed.values()):
        raise AttackFailed("the update is too large for float32: its gradient is infinite")
    return observed


def _is_one_sgd_step(layout: Layout, training: TrainingDetails) -> bool:
    """Whether ``observed`` is a gradient, not simulated step by step."""
    return training.optimizer == "sgd" and len(layout.plan.step_sizes) == 1 and not layout.members


def _unclipped(observed: Named, knowledge: Knowledge, layout: Layout, *, whole: bool) -> bool:
    """Whether ``observed`` is as long as what a simulation gives: a clipped gradient has lost its length.

    ``whole``: whether the update holds all of what was clipped together.
    """
    trainings = [knowledge.training, *(share.training for share in knowledge.cohort)]
    norms = [t.clip_norm for t in trainings if t is not None and t.clip_norm is not None]
    if not norms:
        return True
    training = layout.training
    if training is not None and not _is_one_sgd_step(layout, training):
        return whole  # the simulation clips as well
    length = math.sqrt(sum(float(value.double().square().sum()) for value in observed.values()))
    return whole and not knowledge.cohort and length < (1 - _CLIPPED) * min(norms)


def _trained(model: nn.Module, change: Named, notes: list[str]) -> list[str]:
    """Names of the parameters that the client trained."""
    names = [name for name, p in model.named_parameters() if p.requires_grad and name in change]
    still = [name for name in names if not bool(change[name].any())]
    if still:
        notes.append(f"left out as frozen, since they did not move: {', '.join(still[:5])}")
    return [name for name in names if name not in still]
