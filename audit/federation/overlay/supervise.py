"""What the processes have in common that run an app under Flower's engines: orders, events, their end."""

import contextlib
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from fl_audit.core.files import read_model, write_json, write_tensors
from fl_audit.federation._parent import when_orphaned
from fl_audit.federation.apps.job import FROZEN, HELD_OUT, OUTCOME, AppFailure, AppJob, AppOutcome
from fl_audit.federation.apps.outcome import together
from fl_audit.federation.overlay.server_side import EVENTS
from fl_audit.federation.overlay.spool import Spool
from fl_audit.federation.overlay.tree import adopt_orphans, end_descendants

PATIENCE = 3.0
"""Seconds for what was started to end by itself."""


class Ended(BaseException):
    """This process was told to end, or its parent is gone."""


class Orders:
    """The job of this process, and the pipe to its parent.

    Args:
        arguments: the job's file, and the descriptor of the pipe.
    """

    def __init__(self, arguments: list[str]) -> None:
        self.file = Path(arguments[0])
        self.place = self.file.parent
        self.job = read_model(self.file, AppJob, "the job of an app")
        descriptor = int(arguments[1])
        os.set_inheritable(descriptor, False)
        self._pipe: TextIO = os.fdopen(descriptor, "w", buffering=1)
        self._read = 0
        self.run: int | None = None

    @property
    def outcome(self) -> Path:
        """What the server's side writes when it is done."""
        return self.place / OUTCOME

    def relay(self) -> None:
        """Tell the parent what the server's side told since."""
        with contextlib.suppress(FileNotFoundError), (self.place / EVENTS).open(encoding="utf-8") as file:
            file.seek(self._read)
            while (line := file.readline()).endswith("\n"):
                self._read = file.tell()
                event: dict[str, Any] = json.loads(line)
                self.run = event.get("run", self.run)
                self._pipe.write(line)

    def failed(self, failure: AppFailure) -> None:
        """Write the outcome of a federation whose server's side could not."""
        if not self.outcome.exists():
            spool = Spool(self.job)
            told = AppOutcome(**dict(together(spool.seen())), failure=failure)
            for name, found in ((HELD_OUT, spool.held_out()), (FROZEN, spool.frozen())):
                if found is not None:
                    write_tensors(self.place / name, dict(found))
            spool.end()
            write_json(self.outcome, told.model_dump(mode="json"))


def supervise(arguments: list[str], work: Callable[[Orders], None]) -> None:
    """Run ``work``, relay events meanwhile, and leave no process behind, however it ends."""
    orders = Orders(arguments)
    (orders.place / EVENTS).unlink(missing_ok=True)
    adopt_orphans()
    signal.signal(signal.SIGTERM, _end)
    when_orphaned(lambda: os.kill(os.getpid(), signal.SIGTERM))
    code = 0
    try:
        with _relaying(orders):
            work(orders)
    except Ended:
        code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        end_descendants(PATIENCE)
        orders.relay()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # whatever threads the app has left running


@contextlib.contextmanager
def _relaying(orders: Orders) -> Iterator[None]:
    over = threading.Event()

    def relay() -> None:
        while not over.wait(0.2):
            orders.relay()

    thread = threading.Thread(target=relay, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _end(number: int, frame: object) -> None:
    raise Ended
