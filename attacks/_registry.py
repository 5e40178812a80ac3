"""The registry of attacks, apart from the package so that attacks can import it."""

import inspect

from fl_audit.attacks.base import Attack
from fl_audit.core.errors import ConfigError
from fl_audit.core.registry import Registry, import_object, is_import_spec, parse_params


def _own(spec: str) -> Attack | None:
    """An attack of the user's: ``module:Class``, with ``:key=value,…`` parameters after it."""
    place, _, params = spec.partition(":")
    name, _, params = params.partition(":")
    place = f"{place}:{name}"
    if not is_import_spec(place):
        return None
    cls = import_object(place, "attack")
    if not (inspect.isclass(cls) and issubclass(cls, Attack)):
        raise ConfigError(f"attack {spec!r}: expected a subclass of fl_audit.attacks.Attack, got {cls!r}")
    missing = [name for name in ("needs", "paper", "works") if not hasattr(cls, name)]
    if missing or inspect.isabstract(cls):
        lacks = missing or sorted(cls.__abstractmethods__)
        raise ConfigError(f"attack {spec!r}: {name} must define {', '.join(lacks)}")
    if not cls.name:
        cls.name = place
    return cls.from_params("attack", spec, parse_params("attack", spec, params, list(cls.model_fields)))


attacks: Registry[Attack] = Registry("attack", fallback=_own)
