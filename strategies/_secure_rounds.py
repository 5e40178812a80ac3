"""The rounds of a federation that aggregates securely (SecAgg+): one capture each, the mean, and no other.

What the server learns of a round is the sum that it takes the masks off; it is computed here as the server
does (`fl_audit.strategies._masked_round`). Where that does not work, as with a workflow of the app's own, the
next global model tells the mean as well, if the strategy does nothing but average.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from flwr.app import Message
from torch import Tensor

from fl_audit.core.aggregates import mean_update
from fl_audit.core.types import Scalar, Update
from fl_audit.strategies._masked_round import COLLECT, MaskedRound, StillMaskedError
from fl_audit.strategies._sent import Sent, SentModel

How = Literal["unmasked", "next model"]
"""The sum of the masked vectors without its masks, or the global model that came after."""


@dataclass
class _Round:
    """A round whose mean is not known yet."""

    masked: MaskedRound = field(default_factory=MaskedRound)
    first: Sent | None = None
    clients: dict[int, Mapping[str, Scalar]] = field(default_factory=dict)


class SecureRounds:
    """Follows the protocol and writes each round's mean once it can be had.

    Args:
        write: writes a capture; says why it did not.
        not_the_mean: why the next global model is not the mean of a round's updates; None if it is.

    Attributes:
        seen: whether any message of the protocol was seen.
        how: by round, how the mean was had.
        problems: by round, why it was not.
    """

    def __init__(
        self, write: Callable[[Update], str | None], not_the_mean: Callable[[], str | None] | None = None
    ) -> None:
        self.seen = False
        self.how: dict[int, How] = {}
        self.problems: dict[int, str] = {}
        self._rounds: dict[int, _Round] = {}
        self._write, self._not_the_mean = write, not_the_mean

    def take(self, sent: Sent, reply: Message, metrics: Mapping[str, Scalar]) -> None:
        """Take one exchange; ``metrics`` are what the client sent in clear."""
        if sent.step is None or sent.key.round in self.how:
            return
        found = self._rounds.setdefault(sent.key.round, _Round())
        self.problems.setdefault(sent.key.round, "the protocol stopped before the masks were taken off")
        shapes = []
        if sent.step["stage"] == COLLECT:
            if found.first is None:  # its model went out, which told what it could of earlier rounds
                self._rounds = {sent.key.round: found}
                found.first = sent
            shapes = [tuple(tensor.shape) for tensor in sent.model.read[0].values()]
        found.masked.take(sent.node_id, sent.step, reply.content, shapes)
        if sent.step["stage"] == COLLECT:
            found.clients.setdefault(sent.key.client, metrics)

    def close(self) -> None:
        """Write the mean of every round whose masks come off by now."""
        for number, found in list(self._rounds.items()):
            if found.masked.asked and found.first is not None:
                try:
                    values = found.masked.mean()
                except StillMaskedError as error:
                    self.problems[number] = str(error)
                    continue
                mean = dict(zip(found.first.model.read[0], map(torch.as_tensor, values), strict=True))
                self._end(number, found.first, mean, found.clients, "unmasked")

    @property
    def waiting(self) -> bool:
        """Whether there is a round whose mean only the next model can tell."""
        return any(found.masked.asked and found.first is not None for found in self._rounds.values())

    def next_model(self, model: SentModel) -> None:
        """A model goes out: the mean of the rounds that wait, if the server averages."""
        for number, found in list(self._rounds.items()):
            first = found.first
            if first is None or not found.masked.asked or not model.size:
                continue
            if model.digest == first.model.digest or model.read[0].keys() != first.model.read[0].keys():
                continue  # the server learned nothing and goes on with what it had
            why = "how the strategy aggregates is not known"
            if self._not_the_mean is not None:
                why = self._not_the_mean() or ""
            if why:
                self.problems[number] += f"; nor does the next global model tell it: {why}"
                del self._rounds[number]
            else:
                self._end(number, first, model.read[0], found.clients, "next model")

    def _end(
        self,
        number: int,
        first: Sent,
        mean: Mapping[str, Tensor],
        clients: Mapping[int, Mapping[str, Scalar]],
        how: How,
    ) -> None:
        del self._rounds[number]
        try:
            update = mean_update(
                first.key.defense,
                number,
                sent=first.model.read[0],
                mean=mean,
                clients=clients,
                config=first.config,
            )
        except ValueError as error:
            self.problems[number] = f"the weights of the mean are not known: {error}"
            return
        problem = self._write(update)
        if problem is not None:
            self.problems[number] = problem
            return
        self.how[number] = how
        if how == "unmasked":
            del self.problems[number]
