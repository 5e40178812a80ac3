"""What the model of an app is worth by the app's own account, since nobody else has its test data."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from fl_audit.federation.apps import AppOutcome
from fl_audit.federation.apps.job import ClientAccuracy
from fl_audit.reports.schema import Utility, UtilityRound


@dataclass(frozen=True)
class Told:
    """The accuracy that an app reports.

    Attributes:
        utility: of the last round and of each; empty where the app reports none.
        clients: by client, of the last round in which clients told one.
    """

    utility: Utility
    clients: dict[int, float]


def accuracy_of(outcome: AppOutcome) -> Told:
    """Take what the server's own evaluation gave, else the mean of what clients told, weighted by examples.

    Percentages are made shares of 1 where a value above 1 shows that the app reports percentages.
    """
    server = outcome.server_accuracy
    key = _key([told for entry in outcome.accuracy for told in entry.clients.values()])
    replies = {
        entry.round: {client: told for client, told in entry.clients.items() if told.key == key}
        for entry in outcome.accuracy
    }
    whole = _whole([told.value for found in replies.values() for told in found.values()])
    shares = {
        number: {client: told.value / whole for client, told in found.items()}
        for number, found in replies.items()
        if found
    }
    means = {number: _mean(list(replies[number].values())) / whole for number in shares}
    last = max(means, default=None)
    clients = {} if last is None else {who: value for who, value in shares[last].items() if who >= 0}
    central: dict[int, float] = {}
    if server is not None:
        over = _whole(list(server.rounds.values()))
        central = {number: value / over for number, value in server.rounds.items()}
    rounds = [
        UtilityRound(
            round=number,
            accuracy=central.get(number) if server is not None else means.get(number),
            client_accuracy=means.get(number),
        )
        for number in sorted(central | means)
    ]
    return Told(_utility(outcome, rounds, key), clients)


def _utility(outcome: AppOutcome, rounds: list[UtilityRound], key: str | None) -> Utility:
    known = [entry for entry in rounds if entry.accuracy is not None]
    if not known:
        return Utility(rounds=rounds)
    if outcome.server_accuracy is not None:
        source = f"{outcome.server_accuracy.key!r} of its server's own evaluation"
    else:
        source = f"{key!r} of its clients' own evaluation, their mean weighted by num-examples"
    return Utility(
        accuracy=known[-1].accuracy,
        source=f"the app's own metric {source}, after round {known[-1].round}",
        rounds=rounds,
    )


def _key(told: Sequence[ClientAccuracy]) -> str | None:
    """The name by which most replies call it."""
    return Counter(entry.key for entry in told).most_common(1)[0][0] if told else None


def _whole(values: Sequence[float]) -> float:
    """What all right is: 100 where a value is above 1, else 1."""
    return 100.0 if max(values, default=0.0) > 1 else 1.0


def _mean(told: Sequence[ClientAccuracy]) -> float:
    """Weighted by examples where every client says how many it has."""
    weights = [entry.examples for entry in told]
    known = [weight for weight in weights if weight is not None]
    if len(known) < len(told) or not sum(known):
        known = [1] * len(told)
    return sum(entry.value * weight for entry, weight in zip(told, known, strict=True)) / sum(known)
