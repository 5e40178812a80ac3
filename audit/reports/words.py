"""Numbers and names as people read them; used by the pages and by the terminal alike."""

from collections.abc import Mapping, Sequence
from typing import Any

from fl_audit.reports.schema import DefenseBase, FailedStatus, Leak

NOT_MEASURED = "not measured"

NOT_THE_SERVER = "not against the server"
"""Beside an epsilon that holds only against those who see what the server releases."""

UNKNOWN_PROTECTION = "whatever protection the federation itself applied is not known here"
"""Of captures that were recorded in somebody's own federation."""

UNKNOWN_ELSE = "whatever else the federation itself applied is not known here"
"""Likewise, where something is known."""

FAILED_WORDS: dict[FailedStatus, str] = {
    "attack-failed": "the attack gave no image",
    "not-attempted": "not attempted",
    "client-failed": "the client sent nothing usable",
    "unscored": "could not be scored",
}


def percent(rate: float | None) -> str:
    """A share as a whole percentage that says 0% only for none and 100% only for all."""
    if rate is None:
        return NOT_MEASURED
    if 0 < rate < 0.01:
        return "<1%"
    if 0.99 < rate < 1:
        return ">99%"
    return f"{rate:.0%}"


def interval(bounds: tuple[float, float] | None) -> str:
    """A confidence interval, e.g. ``62% to 99%``; empty if there is none."""
    return "" if bounds is None else f"{percent(bounds[0])} to {percent(bounds[1])}"


def number(value: float | None) -> str:
    """A score with about three figures that matter."""
    if value is None:
        return NOT_MEASURED
    size = abs(value)
    if size == 0:
        return "0"
    if size < 0.001:
        return f"{value:.1e}"
    digits = 0 if size >= 1000 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{digits}f}"


def count(amount: int, one: str, many: str | None = None) -> str:
    """An amount with its noun, e.g. ``1 image``, ``12 images``."""
    return f"{amount:,} {one if amount == 1 else many or one + 's'}"


def listing(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def spans(numbers: Sequence[int]) -> str:
    """Whole numbers with runs drawn together, e.g. ``0-3, 7``."""
    runs: list[list[int]] = []
    for value in sorted(set(numbers)):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(str(a) if a == b else f"{a}\N{EN DASH}{b}" for a, b in runs) or "none"


def params(values: Mapping[str, Any]) -> str:
    """Parameters on one line, e.g. ``noise_multiplier = 1.0, clipping_norm = 1.0``."""
    return ", ".join(f"{name} = {'not set' if value is None else value}" for name, value in values.items())


def mix(counts: Sequence[int], classes: Sequence[str], most: int = 8) -> str:
    """How many of each class, e.g. ``face: 2, not a face: 1``; the most frequent classes first."""
    present = sorted((place for place, amount in enumerate(counts) if amount), key=lambda p: (-counts[p], p))
    shown = [
        f"{classes[place][:40] if place < len(classes) else place}: {counts[place]}"
        for place in present[:most]
    ]
    more = f" and {len(present) - most} classes more" if len(present) > most else ""
    return f"{', '.join(shown)}{more}" or "none"


def circumstance(defense: DefenseBase) -> str:
    """``without defense`` or ``under dp``; of an app ``as the app is (…)``, since it may bring its own."""
    if defense.elsewhere and defense.baseline:
        known = f"under its own {listing(_names(defense))}; " if defense.own else ""
        return f"as recorded ({known}{UNKNOWN_ELSE if known else UNKNOWN_PROTECTION})"
    if defense.own is None:
        return "without defense" if defense.baseline else f"under {defense.name}"
    brings = f"its own: {listing(_names(defense))}" if defense.own else "none of its own found"
    if defense.baseline:
        return f"as the app is (no defense added; {brings})"
    return f"under {defense.name}" + (
        f" on top of the app's {listing(_names(defense))}" if defense.own else ""
    )


def title(defense: DefenseBase) -> str:
    """The defense as a heading."""
    if defense.elsewhere and defense.baseline:
        return f"As recorded: {' + '.join(_names(defense))}" if defense.own else "As recorded"
    if defense.own is None:
        return "No defense" if defense.baseline else defense.name
    own = " + ".join(_names(defense))
    if defense.baseline:
        return f"As the app is: {own}" if own else "As the app is"
    return f"{own} + {defense.name}" if own else defense.name


def _names(defense: DefenseBase) -> list[str]:
    """What an app brings itself, each name once."""
    return list(dict.fromkeys(found.name for found in defense.own or ()))


def failed(leak: Leak, but: FailedStatus | None = None) -> str:
    """Why images were not graded, e.g. ``the attack gave no image: 2``; empty if all were.

    ``but`` leaves one cause out.
    """
    return "; ".join(
        f"{FAILED_WORDS[status]}: {amount}"
        for status, amount in leak.failed.items()
        if amount and status != but
    )


def aggregate(clients: Sequence[int]) -> str:
    """What was attacked where that is no single client's update, e.g. ``the aggregate of 3 clients``."""
    if not clients:
        return ""
    if len(clients) == 1:
        return f"the aggregate of {count(clients[0], 'client')}"
    return f"aggregates of {clients[0]} to {clients[-1]} clients"


def rate(leak: Leak) -> str:
    """The leak rate with its interval, e.g. ``92% (62% to 99%)``."""
    text = percent(leak.leak_rate)
    return f"{text} ({interval(leak.leak_rate_ci)})" if leak.leak_rate_ci else text


def epsilon(value: float | None, delta: float | None = None) -> str:
    """A privacy loss, or that there is no guarantee."""
    if value is None:
        return "no guarantee"
    shown = number(value)
    return f"{shown} at δ = {delta:g}" if delta is not None else shown


def upfirst(text: str) -> str:
    """The text with a capital first letter; the rest stays as it is."""
    return f"{text[:1].upper()}{text[1:]}"
