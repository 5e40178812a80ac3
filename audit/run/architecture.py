"""The architecture that clients, server and attacker share: the configured one, as the defense has it."""

from fl_audit.core.defended import DefendedModel
from fl_audit.core.units import ModelSpec
from fl_audit.models import models
from fl_audit.strategies.defenses import defenses


def architecture(model: str, defense: str | None) -> ModelSpec:
    """The architecture by names; ``defense`` None: as configured.

    Raises:
        ConfigError: there is no such model or defense.
    """
    base = models.create(model)
    return base if defense is None else DefendedModel(base=base, defense=defenses.create(defense))
