"""What ``fl-audit metrics`` finds, in a form that other scripts can rely on: its JSON file."""

from typing import Literal

from pydantic import Field

from fl_audit.reports.schema import SCHEMA_VERSION, MetricFacts, Model


class Estimate(Model):
    """A figure with its 95% bootstrap interval; null with a reason where it could not be computed."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str | None = Field(None, description="why there is no value; null if there is one")

    def __str__(self) -> str:
        """As tables show it, e.g. ``0.85 (0.79 to 0.90)``."""
        if self.value is None:
            return "undefined"
        if self.low is None or self.high is None:
            return f"{self.value:.2f}"
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


class Faithfulness(Model):
    """How far one metric follows the labels. Signs are turned so that 1 is perfect for every metric."""

    metric: str
    pairs: int = Field(ge=0, description="labelled pairs that the metric measured")
    decided: int = Field(ge=0, description="of these, labelled above or below 0.5: those that the AUC uses")
    spearman: Estimate
    kendall: Estimate = Field(description="tau-b")
    pearson: Estimate
    auc: Estimate = Field(description="labelled above 0.5 against below 0.5")


class LabelFacts(Model):
    """The labels."""

    judge: str
    pairs: int = Field(ge=0, description="pairs with a label")
    unlabelled: int = Field(ge=0, description="pairs without one; they are graded but compared with nothing")
    answers: int = Field(ge=0)
    annotators: int = Field(ge=0, description="0: the file tells none apart")
    values: dict[str, int] = Field(description="how often each label occurs")
    spearman_ceiling: float = Field(
        description="the highest Spearman that a metric without ties can reach, since labels are tied"
    )


class Group(Model):
    """One group of pairs, e.g. one model."""

    group: str
    pairs: int = Field(ge=1)
    label: float = Field(description="mean label")
    label_rank: float = Field(description="1: most recognisable; ties share their mean rank")
    scores: dict[str, float | None] = Field(description="mean score by metric")
    ranks: dict[str, float | None] = Field(description="rank by metric, 1: closest to the originals")


class Ranking(Model):
    """Groups ranked by each metric and by the labels: the experiment of the SemSim paper."""

    by: list[str] = Field(description="fields of the labels that make the groups")
    groups: list[Group]
    spearman: dict[str, Estimate]
    kendall: dict[str, Estimate]


class Disagreement(Model):
    """A pair on which metrics differ: percentiles of closeness among the pairs, 1 the closest."""

    pair: str
    spread: float = Field(ge=0, le=1, description="highest minus lowest percentile")
    percentiles: dict[str, float]


class Misjudged(Model):
    """A pair on which a metric and the labels differ most."""

    pair: str
    metric: str
    percentile: float = Field(description="of the metric's closeness among the labelled pairs")
    label_percentile: float


class MetricsFile(Model):
    """The JSON file of ``fl-audit metrics``."""

    schema_version: Literal[1] = SCHEMA_VERSION
    fl_audit: str = Field(description="version")
    originals: str
    reconstructions: str
    metrics: list[MetricFacts]
    pairs: dict[str, dict[str, float | None]] = Field(
        description="score by pair and metric; null: unmeasured"
    )
    unmeasured: dict[str, dict[str, str]] = Field(description="reason by pair and metric that has no score")
    sets: dict[str, Estimate] = Field({}, description="metrics of all pairs together, e.g. fid")
    agreement: dict[str, dict[str, float | None]] = Field(
        {}, description="Spearman between metrics, signs turned so that 1 is full agreement"
    )
    disagreement: list[Disagreement] = Field([], description="the pairs on which metrics differ most")
    labels: LabelFacts | None = None
    faithfulness: list[Faithfulness] = []
    misjudged: list[Misjudged] = []
    ranking: Ranking | None = None
    left_out: list[str] = Field([], description="images without a mark beside marked ones, not graded")
    with_itself: bool = Field(False, description="whether every image was compared with itself")
    method: str = Field("", description="how the intervals were made")
