"""The outer client app: defends what leaves, watches what was trained on, answers the auditor's queries."""

from collections.abc import Callable

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp

from fl_audit.core.seeding import numpy_generator
from fl_audit.core.types import GroundTruth
from fl_audit.core.units import Defense
from fl_audit.federation._flwr_private import CLIENT_FAILED
from fl_audit.federation.truth import ARRAYS, FACTS, FORGET_TRUTH, HELLO, TAKE_TRUTH, pack
from fl_audit.federation.witness import Witness
from fl_audit.strategies._content import copy_content, record_of, short
from fl_audit.strategies._masked_round import step_of

Keep = Callable[[int, int], bool]

MEMORY = "fl-audit.defense"
"""Record of a client's Flower context that holds what its defense remembers."""

RELEASES = "fl-audit.releases"
"""Record of a client's Flower context: by round, how many updates left it."""


class WrappedClientApp(ClientApp):
    """Runs an unmodified client app and adds a defense, a witness and private queries.

    Mods of Flower are baked in when an app's functions are decorated, and app-wide ones also run on
    evaluation; a wrapper around the whole app touches train messages only.

    Args:
        inner: the client app.
        defense: what happens to the arrays of a train reply before it leaves.
        seed: run seed; the defense draws from (seed, defense, round, client).
        keep: says for (round, client) whether truth is wanted; None means always.
        witness: makes what watches a training.
        round_of: which round a train message is of.
    """

    def __init__(
        self,
        inner: ClientApp,
        defense: Defense,
        *,
        seed: int,
        keep: Keep | None = None,
        witness: Callable[[], Witness] = Witness,
        round_of: Callable[[Message], int] | None = None,
    ) -> None:
        super().__init__()
        self._inner = inner
        self._defense = defense
        self._seed = seed
        self._keep = keep
        self._witness = witness
        self._round_of = round_said if round_of is None else round_of

    def __call__(self, message: Message, context: Context) -> Message:
        """Handle one message."""
        kind = message.metadata.message_type
        if kind == HELLO:
            return Message(_facts(_client(context)), reply_to=message)
        if kind in (TAKE_TRUTH, FORGET_TRUTH):
            taken = _take(context)
            return Message(taken if kind == TAKE_TRUTH else RecordDict(), reply_to=message)
        try:
            if kind.partition(".")[0] == MessageType.TRAIN:
                return self._train(message, context)
            return self._inner(message, context)
        except Exception as error:  # as Flower's engines do, but with a reason that people can read
            reason = short(f"{type(error).__name__}: {error}")
            return Message(Error(code=CLIENT_FAILED, reason=reason), reply_to=message)

    def _train(self, message: Message, context: Context) -> Message:
        sent = copy_content(message.content)
        number, client = self._round_of(message), _client(context)
        self._forget(context)  # what nobody asked for in an earlier round
        if self._keep is None or self._keep(number, client):
            with self._witness() as seen:
                seen.asked(sent)
                reply = self._inner(message, context)
            self._remember(seen.truth(), number, context)
        else:
            reply = self._inner(message, context)
        if reply.has_content():
            self._defend(sent, reply, context, number, client)
        return reply

    def _remember(self, truth: GroundTruth | str, number: int, context: Context) -> None:
        """Keep what was trained on in the client's context, until the auditor asks for it."""
        for key, record in pack(truth, number).items():
            context.state[key] = record

    def _forget(self, context: Context) -> None:
        """Drop what is kept."""
        _take(context)

    def _defend(self, sent: RecordDict, reply: Message, context: Context, number: int, client: int) -> None:
        """Replace the arrays of ``reply`` by what the defense lets out; raises rather than let more out.

        What the defense remembers of this client from round to round lies in Flower's ``context.state``.
        """
        if not self._defense.changes_update:
            return
        if step_of(sent) is not None:
            raise ValueError(
                f"defense {self._defense.name!r} cannot act: the app masks the update (SecAgg+) before it "
                "comes here. Write the defense into the app, as a mod after secaggplus_mod, and audit that"
            )
        models = list(sent.array_records.values())
        if len(models) != 1 or len(reply.content.array_records) != 1:
            raise ValueError(
                f"defense {self._defense.name!r} expects one array record each way, got {len(models)} sent "
                f"and {len(reply.content.array_records)} to send back"
            )
        key, trained = next(iter(reply.content.array_records.items()))
        again = _again(context, number)  # noise that came twice would be known
        rng = numpy_generator(self._seed, "defense", self._defense.name, number, client, *again)
        state = _numpy(context.state.array_records.get(MEMORY, ArrayRecord()))
        defended = self._defense.apply(_numpy(models[0]), _numpy(trained), rng=rng, state=state)
        if state:
            context.state[MEMORY] = record_of(state)
        reply.content[key] = record_of(defended)


def _numpy(record: ArrayRecord) -> dict[str, np.ndarray]:
    return {name: array.numpy() for name, array in record.items()}


def _client(context: Context) -> int:
    """The client's number: its partition, or its node id where a deployment gives none that is a number."""
    value = context.node_config.get("partition-id")
    return int(str(value)) if str(value).isdecimal() else context.node_id


def _again(context: Context, number: int) -> tuple[int, ...]:
    """How many updates left the client before in this round, if any, as the defense's seed needs it."""
    record = context.state.config_records.get(RELEASES, ConfigRecord())
    count = record.get(str(number), 0)
    before = count if isinstance(count, int) else 0
    context.state[RELEASES] = ConfigRecord({**record, str(number): before + 1})
    return (before,) if before else ()


def round_said(message: Message) -> int:
    """The server round that a message is of, as far as it says so; else 0."""
    for record in message.content.config_records.values():
        for name in ("server-round", "server_round"):
            value = record.get(name)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
    group = message.metadata.group_id
    return int(group) if group.isdecimal() else 0


def _facts(client: int) -> RecordDict:
    return RecordDict({FACTS: ConfigRecord({"partition-id": client})})


def _take(context: Context) -> RecordDict:
    """Move the auditor's records out of the context."""
    taken = RecordDict()
    for key in (ARRAYS, FACTS):
        if key in context.state:
            taken[key] = context.state[key]
            del context.state[key]
    return taken
