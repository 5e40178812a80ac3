"""Checks of paths given on the command line, made before any work is done."""

from pathlib import Path

from fl_audit.core.errors import ConfigError


def writable(path: Path | None, option: str) -> None:
    """Refuse a path that no file can be written to; ``option`` is named in the error."""
    if path is None:
        return
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if path.is_dir():
        raise ConfigError(f"{option} {path}: expected a file to write, this is a folder")
    if existing != path and not existing.is_dir():
        raise ConfigError(f"{option} {path}: {existing} is no folder")
