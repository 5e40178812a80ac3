"""Gradient inversion by an honest-but-curious server: each attack is a preset of parts in one file."""

from fl_audit.attacks._registry import attacks
from fl_audit.attacks.base import Attack, AttackFailed, AttackInterrupted, Task
from fl_audit.attacks.optimisation import OptimisationAttack
from fl_audit.attacks.problem import Problem
from fl_audit.core.discover import import_modules

__all__ = [
    "Attack",
    "AttackFailed",
    "AttackInterrupted",
    "OptimisationAttack",
    "Problem",
    "Task",
    "attacks",
]

import_modules(__name__, __path__)
