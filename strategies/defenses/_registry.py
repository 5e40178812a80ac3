"""The registry that the defenses of this package enter themselves into."""

from fl_audit.core.registry import Registry
from fl_audit.core.units import Defense

defenses: Registry[Defense] = Registry("defense")
