"""Secure aggregation: the server learns the weighted mean of a round's updates, and no single one."""

from typing import Any, ClassVar

from fl_audit.core.units import ActsOn, Defense
from fl_audit.strategies.defenses._registry import defenses


@defenses.register("secagg")
class SecureAggregation(Defense):
    """Secure aggregation: of a round's updates the attacker is given the weighted mean and nothing else.

    After Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS 2017
    (https://eprint.iacr.org/2017/281), and Bell et al., "Secure Single-Server Aggregation with (Poly)
    Logarithmic Overhead", CCS 2020, which Flower's SecAgg+ implements. What is audited is what the protocol
    lets an honest-but-curious server see when it works: the mean. The protocol itself (key agreement, masks,
    shares, the rounding of the masked values) is not run, and a server that colludes with clients or decides
    who drops out, and so takes means apart, is out of scope.

    A round is one capture, ``r003-all``, attacked as one update of all its clients' images; the original of
    each finding still knows its client. Who took part, ``num-examples`` (hence each one's weight in the mean)
    and all other metrics travel in clear, as they do under Flower's SecAgg+. A client that sends nothing
    usable counts as dropped out. Secure aggregation is no differential privacy: the mean itself may tell of
    a client, the more the fewer there are; with one client in a round it hides nothing.

    Strategies that compare clients' updates (medians, Krum, ...) cannot run on a mean and are refused. Of a
    strategy of yours it is believed that it averages.
    """

    acts_on: ClassVar[ActsOn] = "server"
    server_sees: ClassVar[str] = (
        "The server sees the weighted mean of a round's updates and no single one. Who took part, each one's "
        "num-examples, which are the weights, and its other metrics travel in clear, as under SecAgg+."
    )
    paper: ClassVar[str] = (
        "Bonawitz et al., Practical Secure Aggregation, CCS 2017, https://eprint.iacr.org/2017/281"
    )

    @property
    def aggregates(self) -> bool:
        """It does."""
        return True

    def wrap_strategy(self, strategy: Any, *, clients: int, sampled: int) -> Any:
        """``strategy`` itself; a ConfigError where it needs each client's update."""
        del clients, sampled
        from fl_audit.strategies.central import needs_only_the_mean  # needs Flower

        return needs_only_the_mean(strategy, self.name)
