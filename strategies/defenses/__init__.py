"""What a client can do to its update before it leaves: one file per defense, none of them needs Flower."""

from fl_audit.core.discover import import_modules
from fl_audit.core.units import Defense, PrivacySpent
from fl_audit.strategies.defenses._registry import defenses

import_modules(__name__, __path__)

__all__ = ["Defense", "PrivacySpent", "defenses"]
