"""No defense: the baseline that every other is compared with."""

from fl_audit.core.units import Defense
from fl_audit.strategies.defenses._registry import defenses


@defenses.register("none")
class NoDefense(Defense):
    """No defense: the update leaves as it is."""

    @property
    def changes_update(self) -> bool:
        """Never: what leaves, leaves even where it is malformed; that is for the auditor to find."""
        return False
