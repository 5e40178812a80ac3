"""Stacks of defenses, ``clip:1+prune:0.9``: the only place where defenses are chained."""

from collections import Counter
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import Field, SerializeAsAny, model_validator

from fl_audit.core.hook_chain import HookChain, check_together
from fl_audit.core.units import Arrays, Defense, PrivacySpent, State


class Stack(HookChain, Defense):
    """Several defenses, each applied to what the one before it made.

    The rule for differential privacy: what a member does to the output of a mechanism is post-processing,
    for it sees nothing else of the client, and keeps the mechanism's epsilon; what a member does before
    it only changes what the mechanism gets, and a mechanism bounds what it gets by itself. Memory over rounds
    changes neither: it comes from the same client's data before a mechanism, and from its outputs after it.
    So each member's guarantee holds for the whole stack, and the best one is stated: one against the server
    before one against others only, then the smallest epsilon.

    That a clipped update stays clipped is needed where noise is added at the server. Hence the one rule of
    order: what the server does comes last, e.g. ``topk:0.1+dp-client``, for a compression after the clipping
    could lengthen the update again. Its validator refuses other orders, ``none``, and a server that
    needs each client's update under secure aggregation, which hides it.
    """

    name: ClassVar[str] = "stack"
    members: tuple[SerializeAsAny[Defense], ...] = Field(min_length=2, description="left to right")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        names = [member.name for member in self.members]
        if "none" in names:
            raise ValueError("'none' in a stack does nothing; leave it out")
        ordered = sorted(self.members, key=lambda member: member.acts_on == "server")
        if [member.name for member in ordered] != names:
            late = next(member.name for member in self.members if member.acts_on == "server")
            raise ValueError(
                f"{late!r} acts at the server, which comes after all that clients do: put it last, "
                f"{'+'.join(member.name for member in ordered)}"
            )
        check_together(self.members)
        hidden = [member.name for member in self.members if member.aggregates]
        needed = [member.name for member in self.members if member.sees_each]
        if hidden and needed:
            raise ValueError(
                f"{needed[0]!r} needs each client's update at the server, which {hidden[0]!r} hides from it"
            )
        return self

    def apply(
        self, sent: Arrays, received: Arrays, *, rng: np.random.Generator, state: State
    ) -> dict[str, np.ndarray]:
        """As the members one after the other; each has its own part of ``state``."""
        defended = dict(received)
        remembered: dict[str, np.ndarray] = {}
        for place, member in enumerate(self.members):
            start = f"{place}/"
            own: State = {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
            if member.changes_update:
                defended = member.apply(sent, defended, rng=rng, state=own)
            remembered |= {start + name: array for name, array in own.items()}
        state.update(remembered)
        return defended

    def wrap_strategy(self, strategy: Any, *, clients: int, sampled: int) -> Any:
        """As the members one after the other: the last one's is the outermost."""
        for member in self.members:
            strategy = member.wrap_strategy(strategy, clients=clients, sampled=sampled)
        return strategy

    @property
    def acts_at_server(self) -> bool:
        """Whether any member does."""
        return any(member.acts_at_server for member in self.members)

    @property
    def changes_update(self) -> bool:
        """Whether any member changes what a client sends."""
        return any(member.changes_update for member in self.members)

    @property
    def aggregates(self) -> bool:
        """Whether any member hides single updates from the server."""
        return any(member.aggregates for member in self.members)

    @property
    def equal_weights(self) -> bool:
        """Whether any member makes all clients count the same."""
        return any(member.equal_weights for member in self.members)

    @property
    def sees_each(self) -> bool:
        """Whether any member needs each client's update at the server."""
        return any(member.sees_each for member in self.members)

    def describe(self) -> str:
        """What each member does."""
        return " Then: ".join(member.describe() for member in self.members)

    def sees(self) -> str:
        """What the server still sees, by the members that act there."""
        return " ".join(text for member in self.members if (text := member.sees()))

    def params(self) -> dict[str, Any]:
        """The members' parameters as ``name.parameter``; a name that comes twice gets its place."""
        names = Counter(member.name for member in self.members)
        return {
            f"{member.name if names[member.name] == 1 else f'{member.name}-{place}'}.{name}": value
            for place, member in enumerate(self.members, start=1)
            for name, value in member.params().items()
        }

    def privacy(self, *, rounds: int, delta: float) -> PrivacySpent | None:
        """The best of the members' guarantees; see the rule above."""
        spent = [member.privacy(rounds=rounds, delta=delta) for member in self.members]
        known = [one for one in spent if one is not None]
        return min(known, key=lambda one: (not one.against_server, one.epsilon), default=None)
