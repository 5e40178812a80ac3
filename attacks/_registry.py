"""The registry of attacks, apart from the package so that attacks can import it."""

from fl_audit.attacks.base import Attack
from fl_audit.core.registry import Registry

attacks: Registry[Attack] = Registry("attack")
