"""What is granted about the client's training: checked, and what of it can be simulated."""

import math
from dataclasses import replace

from torch import Tensor

from fl_audit.attacks.client_optimisers import OPTIMISERS
from fl_audit.core.errors import ConfigError
from fl_audit.core.knowledge import Knowledge
from fl_audit.core.types import TrainingDetails, Update


def simulated(training: TrainingDetails | None, notes: list[str]) -> TrainingDetails | None:
    """The training details if they can be simulated; notes say what they leave out."""
    if training is None:
        return None
    if training.optimizer.lower() not in OPTIMISERS:
        notes.append(
            f"the clients use the optimiser {training.optimizer!r}, which is not simulated: the update is "
            "treated as one gradient of unknown scale"
        )
        return None
    for rate in training.learning_rates or (training.learning_rate,):
        if not (rate > 0 and math.isfinite(rate)):
            raise ConfigError(f"training.learning_rate must be positive, got {rate}")
    clip = training.clip_norm
    if clip is not None and not (clip > 0 and math.isfinite(clip)):
        raise ConfigError(f"training.clip_norm must be positive, got {clip}")
    if not training.uniform:
        notes.append(
            "the client's optimiser treats groups of parameters or steps differently: all are simulated with "
            "the settings of the first group and step"
        )
    if not training.fresh:
        notes.append(
            "the client's optimiser carried state over from earlier rounds, which is unknown: it is "
            "simulated as fresh"
        )
    return replace(training, optimizer=training.optimizer.lower())


def checked_labels(labels: Tensor | None, knowledge: Knowledge) -> Tensor | None:
    """Granted labels, checked against the class count granted.

    Raises:
        ConfigError: they are no classes.
    """
    classes = knowledge.num_classes
    if labels is None:
        return None
    fits = labels.ndim == 1 and labels.numel() > 0 and not labels.dtype.is_floating_point
    if not fits or (classes is not None and not bool(((labels >= 0) & (labels < classes)).all())):
        raise ConfigError(
            f"granted labels must be a non-empty list of classes from 0 to {(classes or 0) - 1}, got "
            f"{labels.tolist()[:10]}"
        )
    return labels.long()


def proximal_weight(update: Update, notes: list[str]) -> float:
    """Flower's FedProx sends its weight with the model."""
    value = update.config.get("proximal-mu", 0.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        return 0.0
    notes.append(f"the server asked for FedProx with a weight of {value:g}: it is simulated")
    return float(value)
