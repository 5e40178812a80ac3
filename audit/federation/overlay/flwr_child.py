"""Engine ``flwr`` for an app: ``python -m fl_audit.federation.overlay.flwr_child JOB FD``, in the overlay.

Starts a SuperLink of its own unless the user has one, submits the overlay by ``flwr run``, follows the run.
"""

import contextlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from fl_audit.core.errors import FederationError
from fl_audit.federation.apps.job import AppFailure, AppJob
from fl_audit.federation.overlay.launchers import with_launchers, write_launchers
from fl_audit.federation.overlay.servers import Servers
from fl_audit.federation.overlay.superlink import NAME, at, write_connection
from fl_audit.federation.overlay.supervise import Orders, supervise

STARTING = 120.0
"""Seconds that a SuperLink may take to start the ServerApp of a run."""

_AFTER = 5.0  # seconds between the outcome and the end of the log, or the other way round
_POLL = 0.2
_TAIL = 15  # lines of what flwr run printed that an error shows

SIMULATED = "client-resources-num-cpus=1 init-args-log-to-driver=true"
"""How a simulation of ours is run, besides its size."""


def work(orders: Orders) -> None:
    """Run the federation to its end; the server's side writes the outcome, or it is written here."""
    job = orders.job
    try:
        commands = Path(os.environ["FLWR_HOME"]) / "bin"
        write_launchers(commands)
        environment = with_launchers(dict(os.environ), commands)
        with contextlib.ExitStack() as stack:
            servers = None
            if job.superlink is None:
                nodes = job.clients if job.deployment else None
                servers = Servers(orders.place, cwd=Path.cwd(), environment=environment, nodes=nodes)
                stack.enter_context(servers)
                write_connection(Path(os.environ["FLWR_HOME"]), at(servers.address))
            _follow(orders, environment, servers)
    except FederationError as error:
        orders.failed(AppFailure(where="flower", text=str(error)))


def _follow(orders: Orders, environment: dict[str, str], servers: Servers | None) -> None:
    """Submit the overlay, and wait until its server's side is done."""
    log = orders.place / "flwr-run.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            _command(orders.job),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait(orders, process, log, servers)
    finally:
        _print(log)
        if not orders.outcome.exists() and orders.job.superlink is not None:
            _stop_run(orders, environment, log)


def _wait(orders: Orders, process: "subprocess.Popen[bytes]", log: Path, servers: Servers | None) -> None:
    begun, seen = time.monotonic(), False
    while process.poll() is None and not orders.outcome.exists():
        if servers is not None:
            servers.check()
        seen = seen or orders.run is not None
        if not seen and time.monotonic() - begun > STARTING:
            raise FederationError(
                f"the SuperLink did not start the ServerApp within {STARTING:g} s: is another run in its "
                f"way, or its SuperExec missing? See {log.name} and the SuperLink's own log"
            )
        time.sleep(_POLL)
    end = time.monotonic() + _AFTER
    while time.monotonic() < end and (process.poll() is None or not orders.outcome.exists()):
        time.sleep(_POLL)
    if not orders.outcome.exists():
        raise FederationError(_refused(log, process.returncode))


def _command(job: AppJob) -> list[str]:
    command = ["flwr", "run", ".", NAME, "--stream"]
    if job.superlink is None and not job.deployment:
        command += ["--federation-config", f"num-supernodes={job.clients} {SIMULATED}"]
    return command


def _refused(log: Path, code: int | None) -> str:
    """What went wrong with a run whose server's side left no outcome."""
    text = log.read_text(encoding="utf-8", errors="replace")
    if "SuperLink is unavailable" in text:
        return (
            "no SuperLink answers at that address. Start it (flower-superlink --insecure), or give the "
            "address where it listens: --superlink HOST:PORT"
        )
    tail = "\n".join(line for line in text.splitlines()[-_TAIL:] if line.strip())
    how = "flwr run refused the app" if code else "the run ended before its ServerApp could tell how it went"
    return f"{how}; what Flower said:\n{tail}"


def _stop_run(orders: Orders, environment: dict[str, str], log: Path) -> None:
    """Stop a run on the user's own SuperLink, which goes on without us."""
    found = re.search(r"started run (\d+)", log.read_text(encoding="utf-8", errors="replace"))
    if found is not None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                ["flwr", "stop", found[1], NAME],
                env=environment,
                stdin=subprocess.DEVNULL,
                timeout=8,
                check=False,
            )


def _print(log: Path) -> None:
    """What the app printed goes where it goes with the other engines."""
    sys.stdout.write(log.read_text(encoding="utf-8", errors="replace"))


if __name__ == "__main__":
    supervise(sys.argv[1:], work)
