"""A SuperLink on loopback and, for a deployment, its SuperNodes: real processes, each with its log."""

import http.client
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

from fl_audit.core.errors import FederationError

HOST = "127.0.0.1"
STARTING = 60.0
"""Seconds that a server may take to start."""

POLLING = {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5"}
"""Seconds between two looks for work; Flower's own default of a second suits clusters."""

_TAIL = 12  # lines of a log that an error shows


class Servers:
    """Starts the processes and ends them, whatever happens in between. Use as a context manager.

    Args:
        place: folder of their logs.
        cwd: their current folder.
        environment: theirs; Flower's commands are in its PATH.
        nodes: SuperNodes of a deployment; None: a SuperLink that simulates them.
        port: the SuperLink's; None: a free one.

    Attributes:
        address: of the SuperLink.
    """

    def __init__(
        self,
        place: Path,
        *,
        cwd: Path,
        environment: dict[str, str],
        nodes: int | None,
        port: int | None = None,
    ) -> None:
        self._place, self._cwd, self._nodes = place, cwd, nodes
        self._environment = POLLING | environment
        self._ports = {"superlink": port or free_port()}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.address = f"{HOST}:{self._ports['superlink']}"

    def __enter__(self) -> "Servers":
        try:
            simulation = ["--simulation"] if self._nodes is None else []
            self._start("superlink", "flower-superlink", "--insecure", *simulation)
            self._wait_for_superlink()
            for number in range(self._nodes or 0):
                name = f"supernode-{number}"
                self._ports[name] = free_port()
                self._start(
                    name,
                    *("flower-supernode", "--insecure", "--superlink", self.address),
                    *("--node-config", f"partition-id={number} num-partitions={self._nodes}"),
                )
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def check(self) -> None:
        """See that all are there.

        Raises:
            FederationError: one has ended; the end of its log says why.
        """
        for name, process in self._running.items():
            if process.poll() is not None:
                raise FederationError(self._ended(name, process.returncode))

    def stop(self) -> None:
        """End them, SuperNodes first, and wait; what they started themselves ends with them."""
        for process in reversed(self._running.values()):
            process.terminate()
        end = time.monotonic() + 3.0
        for process in self._running.values():
            try:
                process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()

    def _start(self, name: str, *command: str) -> None:
        with (self._place / f"{name}.log").open("wb") as log:
            self._running[name] = subprocess.Popen(
                [*command, "--host", HOST, "--port", str(self._ports[name])],
                cwd=self._cwd,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _wait_for_superlink(self) -> None:
        end = time.monotonic() + STARTING
        while not _answers(self._ports["superlink"]):
            self.check()
            if time.monotonic() > end:
                raise FederationError(f"the SuperLink did not answer at {self.address} within {STARTING:g} s")
            time.sleep(0.1)
        self.check()  # another's may have answered

    def _ended(self, name: str, code: int) -> str:
        text = (self._place / f"{name}.log").read_text(encoding="utf-8", errors="replace")
        if "address already in use" in text.lower():
            return (
                f"the {name} could not listen: port {self._ports[name]} of {HOST} is in use. Choose another, "
                "or end what listens there"
            )
        tail = "\n".join(text.splitlines()[-_TAIL:])
        return f"the {name} ended with status {code}; the end of its log, {name}.log:\n{tail}"


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    asked = http.client.HTTPConnection(HOST, port, timeout=1.0)
    try:
        asked.request("GET", "/health")
        return asked.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        asked.close()
