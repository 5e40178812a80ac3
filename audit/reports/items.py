"""Findings put together by image: what every attack made of one image of one update."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from fl_audit.core.types import EVERYONE
from fl_audit.reports._base import FailedStatus
from fl_audit.reports.schema import Finding, Reason

_STATUS_ORDER: tuple[FailedStatus, ...] = (
    "client-failed",
    "unscored",
    "attack-failed",
    "not-attempted",
)


@dataclass(frozen=True)
class Item:
    """One image of one update with what every attack made of it; ``image`` None: a whole update."""

    round: int
    client: int
    image: int | None
    findings: tuple[Finding, ...]

    @property
    def graded(self) -> list[Finding]:
        """Those that were scored and judged."""
        return [finding for finding in self.findings if finding.status == "graded"]

    @property
    def recognisable(self) -> bool:
        """Whether any attack made it so."""
        return any(finding.recognisable for finding in self.graded)

    @property
    def failure(self) -> FailedStatus | None:
        """Why none was graded, the most telling cause; None if one was."""
        found = {finding.status for finding in self.findings}
        return None if "graded" in found else next(s for s in _STATUS_ORDER if s in found)

    @property
    def update(self) -> tuple[int, int]:
        """Client and round of the update it was in; of a round's aggregate, the client is `EVERYONE`."""
        together = any(finding.aggregate_of is not None for finding in self.findings)
        return EVERYONE if together else self.client, self.round


def items_of(findings: Iterable[Finding]) -> list[Item]:
    """Group by image; a line without an image counts only if nothing else is known of its update."""
    groups: dict[tuple[int, int, int | None], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.round, finding.client, finding.image), []).append(finding)
    known = {(number, client) for number, client, image in groups if image is not None}
    return [
        Item(number, client, image, tuple(group))
        for (number, client, image), group in groups.items()
        if image is not None or (number, client) not in known
    ]


def reasons_of(findings: Iterable[Finding]) -> list[Reason]:
    """Why something was not graded, and how often."""
    counted = Counter(
        (f.round, f.attack, f.status, f.reason)
        for f in findings
        if f.status != "graded" and f.reason is not None
    )
    return [
        Reason(round=number, attack=attack, status=status, reason=reason, count=count)
        for (number, attack, status, reason), count in counted.items()
    ]
