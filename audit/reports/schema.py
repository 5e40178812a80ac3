"""``summary.json``: everything the report shows, in a form that other scripts can rely on.

Shares are fractions in [0, 1]. What could not be measured is null, never NaN and never 0. An image counts
as recognisable if any attack made it so; as graded if any attack on it was graded; as failed, beside the
rate and never inside it, if none was.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from fl_audit.core.errors import CaptureError
from fl_audit.core.files import read_json, write_json
from fl_audit.reports._base import (
    CONTROL,
    SCHEMA_VERSION,
    FailedStatus,
    Model,
    RelativePath,
    Status,
    rounded,
)
from fl_audit.reports.facts import (
    Attacked,
    ClientFacts,
    ClientFailure,
    DatasetFacts,
    DefenseBase,
    DefenseFacts,
    FederationFacts,
    GuessFacts,
    MetricFacts,
    ModelFacts,
    OwnProtection,
    Recognisability,
    RunFacts,
    Scenario,
    SetScore,
    ThreatModel,
    UnitFacts,
    Utility,
    UtilityRound,
)
from fl_audit.reports.finding import Finding, read_findings, write_findings
from fl_audit.reports.frontier_facts import Frontier
from fl_audit.reports.seen_facts import SeenRound

__all__ = [
    "CONTROL",
    "SCHEMA_VERSION",
    "AttackLeak",
    "Attacked",
    "ClientFacts",
    "ClientFailure",
    "ClientSummary",
    "Controls",
    "DatasetFacts",
    "DefenseBase",
    "DefenseFacts",
    "DefenseSummary",
    "FailedStatus",
    "FederationFacts",
    "Finding",
    "GuessFacts",
    "GuessSummary",
    "Leak",
    "MetricFacts",
    "MetricStats",
    "Model",
    "ModelFacts",
    "OwnProtection",
    "PositiveControl",
    "Reason",
    "Recognisability",
    "RoundLeak",
    "RunFacts",
    "Scenario",
    "SeenRound",
    "SetScore",
    "Status",
    "Summary",
    "ThreatModel",
    "UnitFacts",
    "Utility",
    "UtilityRound",
    "WorstImage",
    "read_findings",
    "read_summary",
    "rounded",
    "write_findings",
    "write_summary",
]


class MetricStats(Model):
    """One metric over some images, each at the attack that came closest; null where none was measured."""

    n: int = Field(ge=0, description="images it was measured on")
    mean: float | None = None
    worst: float | None = Field(None, description="of the image that leaked most, by the declared direction")
    quantiles: dict[str, float] = Field({}, description="p05 p25 p50 p75 p95 of the values; empty if n is 0")


class Leak(Model):
    """How much leaked in some group of images."""

    images: int = Field(ge=0, description="images that there were to leak, as far as known")
    graded: int = Field(ge=0, description="of these, scored and judged for at least one attack")
    recognisable: int = Field(ge=0, description="of the graded, recognisable by at least one attack")
    updates: int | None = Field(
        None,
        ge=0,
        description="updates that the graded images are of; null in a run graded before it was kept",
    )
    updates_recognised: int | None = Field(
        None, ge=0, description="of these, with at least one recognisable image; null likewise"
    )
    independent: float | None = Field(
        None,
        ge=0,
        description="independent images that the graded ones count for; null likewise",
    )
    leak_rate: float | None = Field(ge=0, le=1, description="recognisable / graded; null if none graded")
    leak_rate_ci: tuple[float, float] | None = Field(None, description="95% interval")
    ci_method: str | None = Field(None, description="how the interval was computed")
    failed: dict[FailedStatus, int] = Field(
        {}, description="images (whole updates where images are unknown) that no attack was graded on"
    )
    aggregate_of: list[int] = Field(
        [], description="clients in the means that were attacked; empty: single clients' updates were"
    )
    partly_failed: int = Field(0, ge=0, description="graded images on which another attack was not graded")
    metrics: dict[str, MetricStats] = {}

    @property
    def failed_count(self) -> int:
        """Images that were not graded, whatever the cause."""
        return sum(self.failed.values())

    @property
    def not_attempted(self) -> int:
        """Of these, images that no attack tried to reconstruct."""
        return self.failed.get("not-attempted", 0)


class AttackLeak(Leak):
    """One attack alone."""

    attack: str


class RoundLeak(Leak):
    """One round."""

    round: int = Field(ge=1)
    accuracy: float | None = Field(None, ge=0, le=1, description="of the global model after the round")


class Reason(Model):
    """Why something is not graded, and how often."""

    round: int = Field(ge=1)
    attack: str
    status: FailedStatus
    reason: str
    count: int = Field(ge=1)


class WorstImage(Model):
    """The reconstruction closest to its original."""

    round: int
    client: int
    image: int
    attack: str
    recognisable: bool
    p_recognisable: float | None = None
    metrics: dict[str, float | None]
    original: RelativePath | None
    reconstruction: RelativePath | None


class ClientSummary(Leak, ClientFacts):
    """One client under one defense."""

    reasons: list[Reason] = []
    worst: WorstImage | None = Field(None, description="null if nothing was graded")
    rounds: list[RoundLeak] = []


class DefenseSummary(Leak, DefenseBase):
    """One defense: what still leaked, and what it cost."""

    attacks: list[AttackLeak] = []
    rounds: list[RoundLeak] = []
    clients: list[ClientSummary] = []


class GuessSummary(Model):
    """What one kind of guess scores: the level at which a score means nothing."""

    words: str = ""
    images: int = Field(ge=0)
    graded: int = Field(ge=0)
    recognisable: int = Field(ge=0)
    leak_rate: float | None = Field(ge=0, le=1, description="share the rule calls recognisable by mistake")
    metrics: dict[str, MetricStats]


class PositiveControl(Leak):
    """The same attacks on undefended one-image steps of the same model: can the attack succeed at all?"""

    power: Literal["yes", "partly", "no", "unknown"]
    verdict: str = Field(description="the power in words")
    attacks: list[AttackLeak] = []
    rounds: list[RoundLeak] = []
    reasons: list[Reason] = []
    pictures: list[WorstImage] = []


class Controls(Model):
    """Both controls; positive is null where it was not run."""

    negative: dict[str, GuessSummary] = Field({}, description="by kind of guess")
    positive: PositiveControl | None = None


class Summary(RunFacts):
    """``summary.json``."""

    controls: Controls
    defenses: list[DefenseSummary]
    frontier: Frontier | None = Field(
        None, description="leakage against accuracy; null in a run graded before it was known"
    )

    def leak_rates(self) -> dict[str, float | None]:
        """Leak rate by defense as configured; None where nothing was graded."""
        return {defense.name: defense.leak_rate for defense in self.defenses}


def write_summary(path: Path, summary: Summary) -> None:
    """Write ``summary.json`` whole or not at all."""
    write_json(path, summary.model_dump(mode="json"))


def read_summary(path: Path) -> Summary:
    """Read ``summary.json``.

    Raises:
        CaptureError: it is missing, too large or not a summary; names the file and the first field.
    """
    if not path.exists():
        raise CaptureError(f"{path}: expected a file, found none. Grade the run first: fl-audit grade RUN")
    try:
        return Summary.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise CaptureError(f"{path}: {where}: {first['msg']}") from None
