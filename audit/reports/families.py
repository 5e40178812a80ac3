"""Which settings belong together: those of one defense whose parameters differ in one number form a sweep.

It reads names and parameters, so settings given one by one, or in several runs, are joined like those of a
list of values.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fl_audit.core.sweep import components
from fl_audit.reports.frontier_facts import Sweep

Described = tuple[str, Mapping[str, Any]]
"""A defense as configured, and its parameters."""


def family(name: str) -> str:
    """The name without parameters, e.g. ``clip+prune`` of ``clip:1+prune:0.9``."""
    return "+".join(part.partition(":")[0].strip() for part in components(name))


def find_sweeps(settings: Sequence[Described]) -> list[Sweep]:
    """Runs of settings along one number, of at least two different values each.

    Where several parameters vary, the sweeps run along the number with most values (the first of equals),
    and the others are constant in each.
    """
    found = []
    for members in _families(settings).values():
        flat = {place: _flat(settings[place][1]) for place in members}
        varying = _varying(flat)
        numbers = [key for key in varying if all(_is_number(flat[place].get(key)) for place in members)]
        if not numbers:
            continue
        axis = max(numbers, key=lambda key: len({flat[place][key] for place in members}))
        lines: dict[tuple[str, ...], list[int]] = {}
        for place in members:
            others = tuple(repr(flat[place].get(key)) for key in varying if key != axis)
            lines.setdefault(others, []).append(place)
        for places in lines.values():
            if len({flat[place][axis] for place in places}) > 1:
                ordered = sorted(places, key=lambda place: flat[place][axis])
                found.append(Sweep(parameter=axis, points=ordered))
    return found


def settings_in_words(settings: Sequence[Described]) -> list[str]:
    """What distinguishes each setting from the others of its family, e.g. ``0.9``; the family if nothing."""
    words = [family(name) for name, _ in settings]
    for members in _families(settings).values():
        flat = {place: _flat(settings[place][1]) for place in members}
        varying = _varying(flat)
        for place in members if varying else ():
            words[place] = ", ".join(_short(flat[place].get(key)) for key in varying)
    return words


def _families(settings: Sequence[Described]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for place, (name, _) in enumerate(settings):
        found.setdefault(family(name), []).append(place)
    return found


def _varying(flat: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """Parameters that not all members have alike, in order of appearance."""
    keys = dict.fromkeys(key for params in flat.values() for key in params)
    return [key for key in keys if len({repr(params.get(key)) for params in flat.values()}) > 1]


def _flat(params: Mapping[str, Any]) -> dict[str, Any]:
    """Nested parameters, as stacks have them, under dotted names."""
    return dict(_leaves("", params))


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    items: Iterator[tuple[Any, Any]]
    if isinstance(value, Mapping):
        items = iter(value.items())
    elif isinstance(value, list):
        items = iter(enumerate(value))
    else:
        yield prefix, value
        return
    for key, inner in items:
        yield from _leaves(f"{prefix}.{key}" if prefix else str(key), inner)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "not set" if value is None else str(value)
