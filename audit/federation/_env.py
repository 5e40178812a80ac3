"""Environment that Flower and Ray read when they are imported: no telemetry, no update check, no installs."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the coming default; unset, Ray warns on every start
}


def guard() -> None:
    """Switch off whatever would use the network unasked, unless the user set it otherwise."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def flower_home(folder: Path) -> Iterator[None]:
    """Let Flower keep its files below ``folder`` (unless FLWR_HOME is set), and restore the environment.

    Flower's Ray backend rewrites PYTHONPATH of this process; that is undone too.
    """
    before = {name: os.environ.get(name) for name in ("FLWR_HOME", "PYTHONPATH")}
    os.environ.setdefault("FLWR_HOME", str(folder))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
