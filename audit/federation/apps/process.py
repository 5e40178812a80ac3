"""Running an app in a process of its own, or in several of Flower's, in a working folder of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fl_audit.core.errors import CaptureError
from fl_audit.core.files import read_model, write_json
from fl_audit.federation.apps.folder import copy_app
from fl_audit.federation.apps.job import OUTCOME, AppFailure, AppJob, AppOutcome, Engine
from fl_audit.federation.overlay.superlink import connection, write_connection
from fl_audit.federation.overlay.write import write_overlay

_PATIENCE = 15.0  # seconds between asking a process to end and making it

_CHILDREN: dict[Engine, str] = {
    "local": "fl_audit.federation.apps.child",
    "ray": "fl_audit.federation.overlay.ray_child",
    "flwr": "fl_audit.federation.overlay.flwr_child",
}


def run_app(job: AppJob, place: Path, on_round: Callable[[int], None]) -> AppOutcome:
    """Run one federation; captures and truth go below ``job.out``.

    The app gets a fresh copy of its folder, which is removed afterwards; what it prints goes to
    ``place/app.log``. Ctrl-C ends the whole process group.

    Args:
        job: what to run; its ``folder`` is filled in here.
        place: folder of the job, the outcome and the log.
        on_round: told of each round that begins.
    """
    place.mkdir(parents=True, exist_ok=True)
    (place / OUTCOME).unlink(missing_ok=True)
    work = Path(tempfile.mkdtemp(prefix="fl-audit-app-"))
    home = place.resolve() / "flower"
    try:
        folder = work / "app"
        copy_app(Path(job.code), folder)
        job = job.model_copy(update={"folder": str(folder)})
        write_json(place / "job.json", job.model_dump(mode="json"))
        if job.engine != "local":
            write_overlay(folder, job, (place / "job.json").resolve())
        if job.superlink is not None:
            write_connection(home, connection(job.superlink))
        code = _run(_CHILDREN[job.engine], folder, place, _environment(home), on_round)
        return _outcome(place, code)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(home, ignore_errors=True)


def _run(
    module: str, folder: Path, place: Path, environment: dict[str, str], on_round: Callable[[int], None]
) -> int:
    reading, writing = os.pipe()
    try:
        with (place / "app.log").open("wb") as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", module),
                    *(str((place / "job.json").resolve()), str(writing)),
                ],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[writing],
                start_new_session=True,
            )
    finally:
        os.close(writing)
    try:
        with os.fdopen(reading, encoding="utf-8") as events:
            for line in events:
                with suppress(ValueError, KeyError, TypeError):
                    on_round(int(json.loads(line)["round"]))
        return process.wait()
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the process and all that it started: they are a group of their own."""
    for what in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, what)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE)
            if what == signal.SIGTERM:
                continue


def _environment(home: Path) -> dict[str, str]:
    environment = dict(os.environ)
    environment["FLWR_HOME"] = str(home)
    environment["PYTHONUNBUFFERED"] = "1"
    direct = [value for value in (environment.get("NO_PROXY"), "127.0.0.1", "localhost", "::1") if value]
    environment["NO_PROXY"] = environment["no_proxy"] = ",".join(direct)  # Flower's processes meet there
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return environment


def _outcome(place: Path, code: int) -> AppOutcome:
    try:
        return read_model(place / OUTCOME, AppOutcome, "the outcome of an app")
    except CaptureError:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        tail = "\n".join((place / "app.log").read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        return AppOutcome(
            failure=AppFailure(
                where="process",
                text=f"the process that ran the app {how} before the app was done (os._exit, or killed, "
                "perhaps for want of memory)",
                traceback=tail,
            )
        )
