"""Flower's commands for this very Python: what they start by name must find the same packages."""

import os
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from fl_audit.core.errors import FederationError

NEEDED = (
    *("flwr", "flower-superlink", "flower-supernode", "flower-superexec"),
    *("flwr-serverapp", "flwr-clientapp", "flwr-simulation"),
)
"""Commands that engine flwr cannot do without."""

# A line of shell that Python reads as a string: it takes any path of Python, with spaces and of any length.
_SCRIPT = """#!/bin/sh
'''exec' "{python}" -P "$0" "$@"
' '''
import sys

from {module} import {function}

sys.exit({function}())
"""


def write_launchers(folder: Path) -> None:
    """Write a script for each of Flower's commands into ``folder``.

    An environment that is not activated has none of them in PATH, and another environment's would import
    other versions of everything.

    Raises:
        FederationError: the installed Flower lacks one that is needed.
    """
    commands = installed()
    missing = [name for name in NEEDED if name not in commands]
    if missing:
        raise FederationError(
            f"engine flwr needs Flower's commands {', '.join(missing)}, which are not installed beside "
            f"{sys.executable}. Install them: pip install 'flwr[simulation]>=1.41,<1.42'"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, (module, function) in commands.items():
        path = folder / name
        path.write_text(_SCRIPT.format(python=sys.executable, module=module, function=function))
        path.chmod(0o755)


def installed() -> dict[str, tuple[str, str]]:
    """Flower's commands, each with module and function; none where Flower is not installed."""
    try:
        entries = distribution("flwr").entry_points
    except PackageNotFoundError:
        return {}
    scripts = [entry for entry in entries if entry.group == "console_scripts"]
    return {entry.name: (entry.module, entry.attr) for entry in scripts}


def with_launchers(environment: dict[str, str], folder: Path) -> dict[str, str]:
    """``environment`` with ``folder`` first in PATH."""
    path = environment.get("PATH", os.defpath)
    return environment | {"PATH": f"{folder}{os.pathsep}{path}"}
