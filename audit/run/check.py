"""Everything that a configuration names is looked up before any work starts."""

from dataclasses import dataclass

from fl_audit.attacks import Attack, attacks
from fl_audit.attacks.losses import find_loss
from fl_audit.core.errors import KnowledgeError
from fl_audit.core.knowledge import THREAT_LEVELS
from fl_audit.core.units import Dataset, Defense, ModelSpec, Partitioner
from fl_audit.data import datasets, partitioners
from fl_audit.models import models
from fl_audit.run.chosen import chosen_metrics
from fl_audit.run.config import RunConfig, ThreatConfig
from fl_audit.strategies.defenses import defenses

_GRANTED = {
    "A": frozenset[str](),
    "B": frozenset({"model", "loss", "num_classes", "image_shape"}),
    "C": frozenset({"model", "loss", "num_classes", "image_shape", "training"}),
}


@dataclass(frozen=True)
class Units:
    """What the names in a configuration stand for."""

    dataset: Dataset
    partitioner: Partitioner
    model: ModelSpec
    defenses: dict[str, Defense]
    attacks: dict[str, Attack]


def check_names(config: RunConfig) -> Units:
    """Build every unit that ``config`` names.

    Raises:
        ConfigError: a name or a parameter is wrong; the message lists the valid ones.
        KnowledgeError: an attack needs what the threat model does not grant, or there is no such loss.
    """
    units = Units(
        datasets.create(config.data.dataset),
        partitioners.create(config.data.partition),
        models.create(config.model),
        {spec: defenses.create(spec) for spec in config.defense_specs()},
        {spec: attacks.create(spec) for spec in config.attack.names},
    )
    check_attacks(config, units.attacks)
    return units


def check_attacks(config: RunConfig, chosen: dict[str, Attack]) -> None:
    """Check that the metrics exist and that the threat model grants what the attacks need.

    Raises:
        ConfigError: a metric is unknown.
        KnowledgeError: an attack needs what is not granted, or there is no such loss.
    """
    chosen_metrics(config.grade.metrics)
    granted = granted_names(config.threat)
    for spec, attack in chosen.items():
        missing = sorted(attack.needs - granted)
        if missing:
            raise KnowledgeError(
                f"attack {spec!r} needs {', '.join(missing)}, which threat level {config.threat.level} "
                f"({THREAT_LEVELS[config.threat.level]}) does not grant. Raise it, e.g. --set threat.level=B"
            )
        if "loss" in attack.needs:
            find_loss(config.threat.loss, spec)


def granted_names(threat: ThreatConfig) -> frozenset[str]:
    """Fields of `Knowledge` that a threat model grants."""
    return _GRANTED[threat.level] | (frozenset({"labels"}) if threat.labels else frozenset())
