"""Registries: one decorator makes an attack, defense, metric, data set or model known everywhere.

A registered thing is a `Unit`: a frozen pydantic model whose fields are its parameters, so that
validation, the JSON of a run, ``fl-audit list`` and test ids all read the same declaration.
"""

import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from fl_audit.core.errors import ConfigError

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_IMPORT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class Unit(BaseModel):
    """Base of everything that can be registered; fields are parameters, ``repr`` shows them all."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    name: ClassVar[str] = ""

    @classmethod
    def summary(cls) -> str:
        """First line of the docstring, shown by ``fl-audit list``."""
        return (inspect.getdoc(cls) or "").split("\n", 1)[0]

    def params(self) -> dict[str, Any]:
        """Parameters as JSON-ready values, in order of declaration."""
        return self.model_dump(mode="json")

    @classmethod
    def from_params(cls, kind: str, spec: str, params: dict[str, Any]) -> Self:
        """Build from parameters; a `ConfigError` names the spec, the field and what was expected."""
        try:
            return cls(**params)
        except ValidationError as error:
            raise ConfigError(f"{kind} {spec!r}: {explain(error, cls)}") from None


T = TypeVar("T", bound=Unit)


class Registry(Generic[T]):
    """Named `Unit` classes of one kind.

    Args:
        kind: the word for error messages, e.g. ``"defense"``.
        fallback: given a spec whose name is not registered, returns a unit or None. It lets a kind
            accept other forms, e.g. a path for data sets.
    """

    def __init__(self, kind: str, *, fallback: Callable[[str], T | None] | None = None) -> None:
        self.kind = kind
        self._fallback = fallback
        self._units: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator that registers under ``name`` (kebab case; duplicates raise ValueError)."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"{self.kind} name {name!r} is not lower-case kebab")

        def add(unit: type[T]) -> type[T]:
            if name in self._units:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            unit.name = name
            self._units[name] = unit
            return unit

        return add

    def __iter__(self) -> Iterator[tuple[str, type[T]]]:
        return iter(sorted(self._units.items()))

    def __contains__(self, name: str) -> bool:
        return name in self._units

    def names(self) -> list[str]:
        """All registered names, sorted."""
        return sorted(self._units)

    def get(self, name: str) -> type[T]:
        """The class called ``name``; a `ConfigError` lists the valid names and the near miss."""
        if name in self._units:
            return self._units[name]
        near = difflib.get_close_matches(name, self._units, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"unknown {self.kind} {name!r}.{hint} Valid: {', '.join(self.names())}")

    def create(self, spec: str) -> T:
        """Build a unit from ``name``, ``name:value`` or ``name:key=value,key=value``.

        A lone value sets the first parameter that the class declares.
        """
        name, _, rest = spec.partition(":")
        if name not in self._units and self._fallback is not None:
            unit = self._fallback(spec)
            if unit is not None:
                return unit
        cls = self.get(name)
        return cls.from_params(self.kind, spec, parse_params(self.kind, spec, rest, list(cls.model_fields)))


def parse_params(kind: str, spec: str, text: str, fields: list[str]) -> dict[str, str]:
    """Parse ``value`` or ``key=value,key=value``; ``fields[0]`` is what a lone value means."""
    params: dict[str, str] = {}
    for number, part in enumerate(p.strip() for p in text.split(",")) if text else ():
        key, eq, value = part.partition("=")
        if not eq:
            if number or not fields:
                raise ConfigError(f"{kind} {spec!r}: expected key=value, got {part!r}")
            key, value = fields[0], part
        key = key.strip().replace("-", "_")
        if key in params:
            raise ConfigError(f"{kind} {spec!r}: {key!r} is given twice")
        params[key] = value.strip()
    return params


def explain(error: ValidationError, cls: type[BaseModel]) -> str:
    """One line per mistake in a pydantic error: the field, what was expected, what came."""
    lines = []
    for item in error.errors(include_url=False):
        where = ".".join(str(part) for part in item["loc"]) or "value"
        if item["type"] == "extra_forbidden":
            valid = ", ".join(cls.model_fields) or "none"
            near = difflib.get_close_matches(where, cls.model_fields, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            lines.append(f"unknown parameter {where!r}.{hint} Valid: {valid}")
        elif item["type"] == "missing":
            lines.append(f"{where} is required")
        else:
            message = item["msg"].removeprefix("Value error, ")
            message = message[0].lower() + message[1:]
            lines.append(f"{where}: {message}, got {item['input']!r}" if item["loc"] else message)
    return "; ".join(lines)


def is_import_spec(spec: str) -> bool:
    """Whether ``spec`` has the form ``package.module:attribute``."""
    return _IMPORT.fullmatch(spec) is not None


def import_object(spec: str, kind: str) -> Any:
    """Import ``module:attribute``; a `ConfigError` says whether the module or the attribute is missing."""
    module_name, _, attribute = spec.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module exists and lacks something itself: that traceback is its author's to see
        raise ConfigError(
            f"{kind} {spec!r}: no module {module_name!r}. Expected module:attribute, importable from the "
            "current folder or the environment"
        ) from None
    if not hasattr(module, attribute):
        raise ConfigError(f"{kind} {spec!r}: module {module_name!r} has no attribute {attribute!r}")
    return getattr(module, attribute)
