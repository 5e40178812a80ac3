"""The audit in a process of clients: an actor of Ray, or what a SuperNode starts for one message."""

from contextlib import ExitStack
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp

from fl_audit.core.files import read_model
from fl_audit.core.seeding import derive_seed, seeded_globals
from fl_audit.core.types import GroundTruth
from fl_audit.federation.apps import _flwr_config as flower
from fl_audit.federation.apps.app_witness import AppWitness
from fl_audit.federation.apps.grid import LoudApp
from fl_audit.federation.apps.job import AppJob, Protection
from fl_audit.federation.apps.observe import kept
from fl_audit.federation.apps.outcome import own_traceback, seen_by, watch_for
from fl_audit.federation.apps.protections import of_mods
from fl_audit.federation.apps.watch import Watch
from fl_audit.federation.overlay.client_side import UNKNOWN, partition
from fl_audit.federation.overlay.spool import Spool
from fl_audit.federation.wrapped import MEMORY, RELEASES, WrappedClientApp
from fl_audit.strategies.defenses import defenses

CALLS = "fl-audit.calls"
"""Record of a client's Flower context that counts the calls of its app: seeds follow from it."""


class ClientProcess:
    """Loads the app's ClientApp once, and hands it every message that comes to this process.

    Args:
        job: the job's file.
        folder: where the app's modules lie.
    """

    def __init__(self, job: Path, folder: Path) -> None:
        self._job = read_model(job, AppJob, "the job of an app")
        self._folder = folder
        self._spool = Spool(self._job)
        self._watch = watch_for(self._job)
        self._hooks = ExitStack()
        self._hooks.enter_context(self._watch.hooked())  # as long as the process lives
        self._inner: ClientApp | None = None
        self._own: list[Protection] = []

    def handle(self, message: Message, context: Context) -> Message:
        """Let the app answer one message, seeded by its client and its count, as engine ``local`` does it."""
        node, number = context.node_id, partition(context)
        label = node if number == UNKNOWN else derive_seed(self._job.seed, "node", number)
        calls = _count(context)
        if self._inner is None:
            self._inner = self._load(node)
        loud = LoudApp(self._inner, lambda error: self._failed(node, error))
        app = _Spooling(loud, self._job, self._spool, self._watch)
        with seeded_globals(self._job.seed, "app", label, calls), self._watch.losses():
            reply = app(message, context)
        seen = seen_by(self._watch)
        self._spool.put_seen(node, seen.model_copy(update={"own": [*self._own, *seen.own]}))
        if self._watch.frozen:
            self._spool.put_frozen(node, self._watch.frozen)
        held = self._watch.held_out()
        if held is not None:
            self._spool.put_held_out(node, *held)
        return reply

    def _load(self, node: int) -> ClientApp:
        try:
            with self._watch.origins.watching():
                app: ClientApp = flower.load_component(self._job.client, ClientApp, self._folder)
            self._own = of_mods(app)
            return app
        except BaseException as error:  # also an app that exits while it is imported
            self._failed(node, error)
            if isinstance(error, SystemExit):
                raise ImportError(f"the app called sys.exit({error.code!r}) while it was imported") from error
            raise

    def _failed(self, node: int, error: BaseException) -> None:
        self._spool.put_error(node, own_traceback(error, self._folder))


class _Spooling(WrappedClientApp):
    """Leaves what was trained on in the spool; nothing of it rides on messages or in Flower's context."""

    def __init__(self, inner: ClientApp, job: AppJob, spool: Spool, watch: Watch) -> None:
        rounds = kept(job)
        super().__init__(
            inner,
            defenses.create(job.defense),
            seed=job.seed,
            # Which clients are captured, the server chooses; and some apps count their rounds from 0.
            keep=lambda number, client: any(rounds(told, client) for told in (number, number + 1)),
            witness=lambda: AppWitness(watch),
        )
        self._spool = spool

    def _remember(self, truth: GroundTruth | str, number: int, context: Context) -> None:
        self._spool.put_truth(context.node_id, number, truth)

    def _forget(self, context: Context) -> None:
        self._spool.forget(context.node_id)


def _count(context: Context) -> int:
    """How many messages this client's app has been given in this run, this one included.

    A SuperNode may keep a client's state from run to run: what a defense remembers of another run is dropped.
    """
    record = context.state.config_records.get(CALLS, ConfigRecord())
    before = record.get("count") if record.get("run") == str(context.run_id) else None
    if not isinstance(before, int):
        before = 0
        for name in (MEMORY, RELEASES):
            context.state.pop(name, None)
    context.state[CALLS] = ConfigRecord({"run": str(context.run_id), "count": before + 1})
    return before + 1
