"""Making a copy of an app an overlay: its components become ours, which load its own."""

import tomllib
from pathlib import Path
from typing import Any

import tomli_w

from fl_audit.federation.apps.job import AppJob

SERVER, CLIENT = "fl_audit_overlay_server", "fl_audit_overlay_client"
"""Modules that are added to the app."""

_INCLUDE = "fab-include"  # files that go to the SuperLink, where an app lists them

_MODULE = '''"""Written by fl-audit: loads the app's own {kind}."""

from fl_audit.federation.overlay.{module} import {side}

app = {side}(job={job!r}, folder=__file__.rpartition("/")[0])
'''


def write_overlay(folder: Path, job: AppJob, job_file: Path) -> None:
    """Turn ``folder``, a copy of the app that is ours to change, into an overlay.

    Args:
        folder: the copy.
        job: what to run; its config is written into the copy, overrides included.
        job_file: where the job can be read while the app runs.
    """
    pyproject = folder / "pyproject.toml"
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    flower = project["tool"]["flwr"]
    flower.pop("federations", None)  # the older way to name a SuperLink, which flwr run would migrate
    app = flower["app"]
    app["config"] = nested(job.config)
    app["components"]["serverapp"] = f"{SERVER}:app"
    modules = {SERVER: ("ServerApp", "server_side", "ServerSide")}
    if not job.server_only:
        app["components"]["clientapp"] = f"{CLIENT}:app"
        modules[CLIENT] = ("ClientApp", "client_side", "ClientSide")
    if _INCLUDE in app:
        app[_INCLUDE] = [*app[_INCLUDE], *(f"{name}.py" for name in modules)]
    for name, (kind, module, side) in modules.items():
        text = _MODULE.format(kind=kind, module=module, side=side, job=str(job_file))
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    pyproject.write_text(tomli_w.dumps(project), encoding="utf-8")


def nested(config: dict[str, Any]) -> dict[str, Any]:
    """A flat run config, as tables: ``a.b = 1`` becomes ``{a: {b: 1}}``."""
    tables: dict[str, Any] = {}
    for name, value in config.items():
        *path, last = name.split(".")
        table = tables
        for part in path:
            table = table.setdefault(part, {})
        table[last] = value
    return tables
