"""An app folder as its author left it: components, config, size of the federation; and a copy to work on."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fl_audit.core.errors import ConfigError
from fl_audit.federation.apps import _flwr_config as flower
from fl_audit.federation.apps._flwr_config import Value

MAX_COPY = 4 * 2**30
"""Bytes that an app folder may hold: it is copied, once for good and once for each federation."""

_LEFT_OUT = (
    *(".git", ".hg", ".svn", ".venv", "venv", "node_modules", "__pycache__", ".mypy_cache", ".ruff_cache"),
    *(".pytest_cache", ".ipynb_checkpoints", ".tox", ".DS_Store"),
)
_ROUNDS = ("num-server-rounds", "num_server_rounds", "num-rounds", "num_rounds", "server-rounds", "rounds")
"""How apps call their number of rounds: Flower's templates use the first."""


@dataclass(frozen=True)
class AppFolder:
    """What ``pyproject.toml`` says of an app.

    Attributes:
        root: its folder.
        name: the project's name.
        server: ``module:attribute`` of its ServerApp.
        client: ``module:attribute`` of its ClientApp.
        config: its run config, overrides applied.
        clients: supernodes.
        clients_from: who said how many, in words.
        rounds: what the run config says; None if no key says so.
        rounds_key: that key.
    """

    root: Path
    name: str
    server: str
    client: str
    config: dict[str, Value]
    clients: int
    clients_from: str
    rounds: int | None
    rounds_key: str | None


def read_app(
    root: Path, overrides: list[str], *, clients: int | None = None, rounds: int | None = None
) -> AppFolder:
    """Read ``pyproject.toml`` and resolve the run config; nothing of the app is imported.

    Args:
        root: the app's folder.
        overrides: as ``flwr run --run-config`` takes them.
        clients: supernodes; None: as the folder's federation says, else Flower's default.
        rounds: sets the run config's number of rounds; None: as configured.

    Raises:
        ConfigError: it is no app folder, an override names a key that the app lacks, or ``rounds`` is given
            and the app has no such key.
    """
    if not root.is_dir():
        raise ConfigError(f"{root}: expected the folder of a Flower app, found no folder")
    try:
        project = flower.project(root)
        config = flower.run_config(root, overrides)
    except FileNotFoundError:
        raise ConfigError(
            f"{root}: expected the folder of a Flower app, found no pyproject.toml in it. Its section "
            "[tool.flwr.app.components] names the serverapp and the clientapp"
        ) from None
    except flower.NotKeyValue as error:
        raise ConfigError(f"--run-config: {getattr(error, 'message', error)}") from None
    except (ValueError, OSError) as error:
        keys = ", ".join(_keys(root)) or "none"
        if "not present in the main dictionary" in str(error):
            raise ConfigError(f"--run-config: {error}. The app's keys: {keys}") from None
        raise ConfigError(f"{root / 'pyproject.toml'}: not that of a Flower app: {error}") from None
    components = project["tool"]["flwr"]["app"]["components"]
    server, client = components.get("serverapp"), components.get("clientapp")
    for name, value in (("serverapp", server), ("clientapp", client)):
        if not isinstance(value, str) or ":" not in value:
            raise ConfigError(
                f"{root / 'pyproject.toml'}: [tool.flwr.app.components] {name} is {value!r}, expected "
                "module:attribute"
            )
    key = next((name for name in _ROUNDS if name in config), None)
    if rounds is not None:
        if key is None:
            raise ConfigError(
                f"--rounds {rounds}: the app's run config has none of {', '.join(_ROUNDS)}. Set the key that "
                f"it has with --run-config; its keys: {', '.join(config) or 'none'}"
            )
        config[key] = rounds
    told = config.get(key) if key is not None else None
    count, source = _supernodes(project, clients)
    return AppFolder(
        root=root,
        name=str(project["project"]["name"]),
        server=server,
        client=client,
        config=config,
        clients=count,
        clients_from=source,
        rounds=told if isinstance(told, int) and not isinstance(told, bool) and told > 0 else None,
        rounds_key=key,
    )


def copy_app(root: Path, target: Path) -> None:
    """Copy an app folder without version control, environments and caches; links stay links.

    Raises:
        ConfigError: it is too large to be copied.
    """
    size = 0
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if name not in _LEFT_OUT]
        size += sum(os.lstat(os.path.join(folder, name)).st_size for name in files)
    if size > MAX_COPY:
        raise ConfigError(
            f"{root}: holds {size / 2**30:.1f} GiB, over the limit of {MAX_COPY / 2**30:.0f} GiB that is "
            "copied for a private working folder. Move data sets elsewhere and put a link to them here"
        )
    shutil.copytree(root, target, symlinks=True, ignore=_ignore)
    for path in target.rglob("*"):
        if path.is_symlink() and not os.path.isabs(os.readlink(path)):
            origin = (root / path.relative_to(target)).resolve()
            if not origin.is_relative_to(root.resolve()):
                path.unlink()
                path.symlink_to(origin)  # it led out of the folder


def _ignore(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if name in _LEFT_OUT}


def _keys(root: Path) -> list[str]:
    try:
        return sorted(flower.run_config(root, []))
    except (ValueError, OSError):
        return []


def _supernodes(project: dict[str, Any], wanted: int | None) -> tuple[int, str]:
    if wanted is not None:
        return wanted, "--clients"
    federations = project["tool"]["flwr"].get("federations", {})
    name = federations.get("default") if isinstance(federations, dict) else None
    options = federations.get(name, {}).get("options", {}) if isinstance(name, str) else {}
    count = options.get("num-supernodes") if isinstance(options, dict) else None
    if isinstance(count, int) and count > 0:
        return count, f"[tool.flwr.federations.{name}]"
    return flower.DEFAULT_SUPERNODES, "Flower's default, since the folder names no federation"
