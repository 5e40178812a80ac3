"""An audit of a user's app: what was asked for, kept in ``app.json`` of its run folder; and its beginning."""

import contextlib
import hashlib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from fl_audit.attacks import attacks
from fl_audit.core.errors import ConfigError
from fl_audit.core.files import read_model, write_json, write_text
from fl_audit.models.app_model import APP_MODEL, app_modules
from fl_audit.run.attack_stage import pick_device
from fl_audit.run.check import check_attacks
from fl_audit.run.config import RunConfig
from fl_audit.run.folder import RunFolder
from fl_audit.run.load import dump_config
from fl_audit.run.manifest import write_manifest
from fl_audit.run.weights import CODE
from fl_audit.strategies.defenses import defenses

PROCESSES = "app-processes"
"""Folder of jobs, outcomes and logs, one each for every defense."""

DEFAULT_DISK = 20 * 2**30
"""Bytes that the captures of one federation may take unless the user says otherwise."""

UNKNOWN_ROUNDS = 100_000
"""Rounds of an app whose run config does not say how many, until it has run."""

Engine = Literal["local", "ray", "flwr"]
"""What runs an app, see `fl_audit.federation.apps.AppJob`."""


class AppSettings(BaseModel):
    """``app.json``.

    Attributes:
        name: the project's name.
        server: ``module:attribute`` of its ServerApp.
        client: ``module:attribute`` of its ClientApp.
        config: its run config, overrides applied.
        clients: supernodes.
        clients_from: who said how many.
        rounds: what its config says; None: not known before it ran.
        attack_rounds: how many rounds to attack, if the user says so.
        labels: whether labels are granted; None: where there are few enough images for it to matter.
        timeout: seconds that a client may take for one message.
        disk: bytes that captures may take.
        input_range: see `fl_audit.federation.apps.AppJob`, as those below.
        image_shape: likewise.
        model: likewise.
        truth: likewise.
        engine: likewise.
        deployment: likewise.
        superlink: likewise.
        server_only: likewise.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    name: str
    server: str
    client: str
    config: dict[str, bool | int | float | str]
    clients: int
    clients_from: str
    rounds: int | None
    attack_rounds: int | None = None
    labels: bool | None = None
    timeout: float = 600.0
    disk: int = DEFAULT_DISK
    input_range: tuple[float, ...] | None = None
    image_shape: tuple[int, int, int] | None = None
    model: str | None = None
    truth: str | None = None
    engine: Engine = "local"
    deployment: bool = False
    superlink: str | None = None
    server_only: bool = False


def read_settings(folder: RunFolder) -> AppSettings:
    """Read ``app.json``.

    Raises:
        CaptureError: it is missing or damaged.
    """
    return read_model(folder.app, AppSettings, "the settings of an app's audit")


def start_app_run(
    app: Path, settings: AppSettings, config: RunConfig, root: Path, command: list[str]
) -> RunFolder:
    """Check everything that was asked for, then make the run folder with a copy of the app.

    Args:
        app: the app's folder; it is read and never written.
        settings: what is particular to an app.
        config: everything else.
        root: a new or empty folder, outside the app's.
        command: the command line, for the manifest.

    Raises:
        ConfigError: a name, a number or a folder is wrong; nothing was written.
    """
    from fl_audit.federation.apps import copy_app

    if root.resolve().is_relative_to(app.resolve()):
        raise ConfigError(f"--out {root}: expected a folder outside the app, {app}: it is copied as a whole")
    for spec in config.defense_specs():
        defense = defenses.create(spec)
        where = "inside local training" if defense.acts_on_training else "at the server"
        if defense.acts_on_training or defense.acts_at_server:
            raise ConfigError(
                f"defense {spec!r} acts {where}, which is the app's own here. Choose one that acts on the "
                "update alone, e.g. dp or prune:0.9, write it into the app, or try it by 'fl-audit run'"
            )
    _check_engine(settings, config)
    with app_modules(app) if ":" in config.threat.loss else contextlib.nullcontext():
        check_attacks(config, {spec: attacks.create(spec) for spec in config.attack.names})
    chosen = pick_device(config.attack.device)
    folder = RunFolder.create(root)
    copy_app(app, root / CODE)
    text = dump_config(config)
    write_text(folder.config, text)
    facts = settings.model_dump(mode="json")
    run_id = hashlib.sha256(f"{text}{sorted(facts.items())}".encode()).hexdigest()[:12]
    write_manifest(folder.manifest, config, run_id, command, str(chosen))
    write_json(folder.app, facts)
    return folder


def _check_engine(settings: AppSettings, config: RunConfig) -> None:
    """Refuse options that do not go together.

    Raises:
        ConfigError: those, and a SuperLink that is not known.
    """
    from fl_audit.federation.overlay.superlink import connection

    chosen = {
        "--deployment": settings.deployment,
        "--superlink": settings.superlink is not None,
        "--server-only": settings.server_only,
    }
    given = [option for option, value in chosen.items() if value]
    if given and settings.engine != "flwr":
        raise ConfigError(f"{', '.join(given)}: only engine flwr has SuperLinks. Add --engine flwr")
    if settings.deployment and settings.superlink is not None:
        raise ConfigError(
            "--deployment starts a SuperLink and SuperNodes, --superlink names one that runs: give one"
        )
    if settings.superlink is not None:
        connection(settings.superlink)
        if settings.clients_from != "--clients":
            raise ConfigError(
                f"--superlink {settings.superlink}: say how many SuperNodes are to take part: --clients N"
            )
    defended = [spec for spec in config.defense_specs() if spec != "none"]
    if settings.server_only and defended:
        raise ConfigError(
            f"defense {defended[0]!r} acts at clients, which run the app's own code under --server-only. "
            "Leave one of the two out, or write the defense into the app"
        )


def app_config(overrides: dict[str, object], settings: AppSettings) -> dict[str, object]:
    """Keys of the configuration that follow from the app."""
    return {
        "model": APP_MODEL,
        "data.dataset": f"the clients of {settings.name}",
        "data.partition": "as the app does it",
        "federation.strategy": settings.server,
        "federation.clients": settings.clients,
        "federation.rounds": settings.rounds or UNKNOWN_ROUNDS,
        "federation.timeout": settings.timeout,
        "threat.labels": settings.labels is not False,
    } | overrides
