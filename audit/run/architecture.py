"""The architecture that clients, server and attacker share: the configured one, as the defense has it."""

from pathlib import Path

from fl_audit.core.defended import DefendedModel
from fl_audit.core.units import ModelSpec
from fl_audit.run.weights import model_spec
from fl_audit.strategies.defenses import defenses


def architecture(model: str, defense: str | None, root: Path) -> ModelSpec:
    """The architecture by names in the run folder ``root``; ``defense`` None: as configured.

    Raises:
        ConfigError: there is no such model or defense.
        CaptureError: it is the audited app's own, and its recipe is missing or damaged.
    """
    base = model_spec(model, root)
    return base if defense is None else DefendedModel(base=base, defense=defenses.create(defense))
