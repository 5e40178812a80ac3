"""What went wrong, as rows of a table."""

from collections.abc import Iterator
from dataclasses import dataclass

from fl_audit.reports.schema import ClientSummary, DefenseSummary, Summary
from fl_audit.reports.words import FAILED_WORDS, title


@dataclass(frozen=True)
class Problem:
    """One reason why something is not graded, as a row of a table."""

    defense: str
    client: int
    round: int
    what: str
    reason: str
    count: int


def problems(summary: Summary, client: int | None = None) -> list[Problem]:
    """Everything that failed, of all clients or of one, by defense, client and round."""
    return [
        problem
        for defense in summary.defenses
        for entry in defense.clients
        if client is None or entry.client == client
        for problem in sorted(_problems(defense, entry), key=lambda problem: problem.round)
    ]


def _problems(defense: DefenseSummary, entry: ClientSummary) -> Iterator[Problem]:
    told = set()
    for reason in entry.reasons:
        told.add(reason.round)
        what = f"{FAILED_WORDS[reason.status]} ({reason.attack})"
        yield Problem(title(defense), entry.client, reason.round, what, reason.reason, reason.count)
    for failure in entry.failures:
        if failure.round not in told:
            what = FAILED_WORDS["client-failed"]
            yield Problem(title(defense), entry.client, failure.round, what, failure.reason, 1)
