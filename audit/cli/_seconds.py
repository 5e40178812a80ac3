"""Durations as people type them."""

import math
import re

from fl_audit.core.errors import ConfigError

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(text: str) -> float:
    """Seconds of ``"90"``, ``"60s"``, ``"1.5m"`` or ``"2h"``.

    Raises:
        ConfigError: it is none of these, or not positive.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([smh]?)\s*", text)
    value = float(found[1]) * _UNITS[found[2]] if found else math.nan
    if not value > 0:
        raise ConfigError(f"{text!r} is no duration; give a positive number and s, m or h, e.g. 60s or 2m")
    return value
