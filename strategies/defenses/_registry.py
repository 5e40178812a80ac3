"""The registry that the defenses of this package enter themselves into; it also builds stacks of them."""

import re

from fl_audit.core.registry import Registry
from fl_audit.core.units import Defense
from fl_audit.strategies.defenses._stack import Stack

_PLUS = re.compile(r"\+(?=\s*[A-Za-z])")
"""Between defenses; the plus of a number, as in ``1e+3``, has a digit after it."""


class DefenseRegistry(Registry[Defense]):
    """Also takes stacks, ``clip:1+prune:0.9``: any number of defenses, applied left to right."""

    def create(self, spec: str) -> Defense:
        """Build a defense, or a stack of them; a `ConfigError` names the member that is wrong."""
        parts = [part.strip() for part in _PLUS.split(spec)]
        if len(parts) == 1:
            return super().create(spec)
        members = tuple(super(DefenseRegistry, self).create(part) for part in parts)
        return Stack.from_params(self.kind, spec, {"members": members})


defenses = DefenseRegistry("defense")
