"""Which SuperLink ``flwr run`` talks to: a connection of the user's Flower configuration, or an address."""

import ipaddress
import os
import tomllib
from pathlib import Path
from typing import Any

import tomli_w

from fl_audit.core.errors import ConfigError

NAME = "fl-audit"
"""The connection in the Flower configuration of a run."""

_CONFIG = "config.toml"


def connection(named: str) -> dict[str, Any]:
    """The connection that ``--superlink`` names, as Flower's configuration has it.

    Raises:
        ConfigError: there is none of that name, or the address needs more than an address.
    """
    if ":" in named:
        return at(named)
    path = Path(os.environ.get("FLWR_HOME") or Path.home() / ".flwr") / _CONFIG
    known = _connections(path)
    found = known.get(named)
    if not isinstance(found, dict):
        names = ", ".join(sorted(name for name, value in known.items() if isinstance(value, dict))) or "none"
        raise ConfigError(
            f"--superlink {named}: expected HOST:PORT, or a connection of {path}, which has: {names}. Add it "
            f"there, below [superlink.{named}], with an address and root-certificates or insecure = true"
        )
    if not isinstance(found.get("address"), str) or found["address"].startswith(":"):
        raise ConfigError(
            f"--superlink {named}: its address is {found.get('address')!r}: Flower starts that simulation "
            "itself. Leave --superlink out, and fl-audit starts one of its own"
        )
    certificates = found.get("root-certificates")
    if isinstance(certificates, str):
        found = found | {"root-certificates": str((path.parent / certificates).resolve())}
    return found


def at(address: str) -> dict[str, Any]:
    """A connection without TLS to a SuperLink on this machine.

    Raises:
        ConfigError: it is no address, or one of another machine.
    """
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"--superlink {address}: expected HOST:PORT, e.g. 127.0.0.1:8000")
    if not _loopback(host.strip("[]")):
        raise ConfigError(
            f"--superlink {address}: a plain address is taken for one without TLS, on this machine alone. "
            "Give the name of a connection of your Flower configuration, which has its root-certificates"
        )
    return {"address": address, "insecure": True}


def write_connection(home: Path, found: dict[str, Any]) -> None:
    """Write the Flower configuration below ``home`` whose one connection is `NAME`."""
    home.mkdir(parents=True, exist_ok=True)
    config = {"superlink": {"default": NAME, NAME: found}}
    (home / _CONFIG).write_text(tomli_w.dumps(config), encoding="utf-8")


def _connections(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8")).get("superlink", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected TOML: {error}") from None
    return found if isinstance(found, dict) else {}


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
