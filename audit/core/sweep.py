"""Sweeps: a spec with lists of values stands for one spec for each value, or each combination of values.

Grammar, on top of `fl_audit.core.registry.parse_params`:

- a part without ``=`` that is not the first one was always a mistake; here it is one more value of the
  parameter before it: ``dp:noise_multiplier=0.1,1`` is ``dp:noise_multiplier=0.1`` and
  ``dp:noise_multiplier=1``, and ``prune:0.5,0.9`` is ``prune:0.5`` and ``prune:0.9``;
- several lists in one spec give every combination, the last list running fastest;
- in a stack, ``clip:1+prune:0.5,0.9``, each component has its own lists. A ``+`` separates components where
  a letter follows it, so that ``1e+3`` stays a number.

A spec without a list is returned as it is, character by character: nothing that was valid changes meaning.
"""

import itertools
import re
from collections.abc import Sequence

from fl_audit.core.errors import ConfigError

MAX_POINTS = 100
"""Specs that one spec may stand for: each is a federation of its own."""

_STACK = re.compile(r"\+(?=\s*[A-Za-z])")


def components(spec: str) -> list[str]:
    """The components of a stack, e.g. ``["clip:1", "prune:0.9"]``; one for a spec that is no stack."""
    return _STACK.split(spec)


def expand(spec: str) -> list[str]:
    """The specs that ``spec`` stands for, in the order of its values.

    Raises:
        ConfigError: a value is missing or given twice, or there are more than `MAX_POINTS`.
    """
    if not any(_is_sweep(part) for part in components(spec)):
        return [spec]
    choices = [choice for part in components(spec) for choice in ("+", *_choices(spec, part))][1:]
    total = 1
    for choice in choices:
        total *= 1 if isinstance(choice, str) else len(choice)
    if total > MAX_POINTS:
        raise ConfigError(f"{spec!r} stands for {total} settings, over the limit of {MAX_POINTS}: list fewer")
    fixed = [[choice] if isinstance(choice, str) else choice for choice in choices]
    return ["".join(chosen) for chosen in itertools.product(*fixed)]


def expand_all(specs: Sequence[str]) -> list[str]:
    """Every spec expanded, in order.

    Raises:
        ConfigError: as `expand`, or a setting is listed twice.
    """
    found = [setting for spec in specs for setting in expand(spec)]
    twice = sorted({setting for setting in found if found.count(setting) > 1})
    if twice:
        raise ConfigError(f"{', '.join(twice)} is listed twice")
    return found


def _is_sweep(component: str) -> bool:
    _, _, rest = component.partition(":")
    return any("=" not in part for part in rest.split(",")[1:])


def _choices(spec: str, component: str) -> list[str | list[str]]:
    """Fixed texts and lists of values whose every combination, joined, is a component."""
    if not _is_sweep(component):
        return [component]
    name, _, rest = component.partition(":")
    found: list[str | list[str]] = [f"{name}:"]
    for number, part in enumerate(rest.split(",")):
        key, equals, value = part.rpartition("=")
        if number == 0 and not equals:
            # module:Class:1,2: the lone value stands behind the last colon
            owner, colon, value = part.rpartition(":")
            found += [f"{owner}{colon}", [value.strip()]]
        elif equals:
            found += [f"{',' if number else ''}{key}=", [value.strip()]]
        else:
            values = found[-1]
            if isinstance(values, list):
                values.append(part.strip())
    for values in found:
        if isinstance(values, list):
            _check(spec, values)
    return found


def _check(spec: str, values: Sequence[str]) -> None:
    if len(values) > 1 and not all(values):
        raise ConfigError(
            f"{spec!r}: a value is missing beside a comma; a list of values is written like "
            "dp:noise_multiplier=0.1,0.3,1"
        )
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise ConfigError(f"{spec!r}: the value {', '.join(twice)} is listed twice")
