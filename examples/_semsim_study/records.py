"""What the study writes down: one record for each finished setting, and the figures over all of them."""

from typing import Literal

from pydantic import Field

from fl_audit.faithfulness.result import Estimate, Faithfulness, Ranking
from fl_audit.reports.schema import MetricFacts, Model


class Options(Model):
    """What must be equal for a study to be gone on with."""

    data_set: str
    images: int
    attack: str
    train_steps: int
    seed: int


class Pair(Model):
    """One attacked image."""

    name: str = Field(description="of the pair: X of pairs/X_ori.png and pairs/X_rec.png")
    row: int = Field(description="of the original; the same in every setting")
    label: float | None = Field(description="the oracle's label: 0, 0.5 or 1; null where the attack failed")
    grade: float | None = Field(description="what the label was made from, in [0, 1]")
    failure: str | None = Field(description="why the attack gave no image")
    scores: dict[str, float | None]
    unmeasured: dict[str, str]


class Done(Model):
    """A finished setting."""

    schema_version: Literal[2] = 2
    model: str
    setting: str
    augmentation: str
    defense: str
    accuracy: float = Field(description="of the attacked network on pictures that it was not trained on")
    iterations: int
    seconds: float = Field(description="of the attacks, on the machine that ran them")
    pairs: list[Pair]
    sets: dict[str, Estimate] = Field(description="metrics of all images together, e.g. fid")

    @property
    def name(self) -> str:
        """As in the tables."""
        return f"{self.model} / {self.setting}"


class Row(Model):
    """A setting in the table."""

    setting: str
    pairs: int
    failed: int
    accuracy: float
    label: float | None = Field(description="mean label")
    labels: dict[str, float] = Field(description="by pair")
    scores: dict[str, float | None] = Field(description="mean of the measured scores, by metric")


class Contradiction(Model):
    """Two metrics, or a metric and the labels, and how often they disagree on which setting leaks more."""

    one: str
    other: str
    share: float | None = Field(
        description="of the pairs of settings; ties are no disagreement; null where one puts all on a level"
    )


class Figures(Model):
    """Everything: ``study.json``."""

    schema_version: Literal[2] = 2
    judge: str = Field(description="who or what gave the labels")
    caution: str = Field(description="what the labels are not")
    options: Options
    metrics: list[MetricFacts]
    table: list[Row]
    ranking: Ranking | None
    faithfulness: list[Faithfulness]
    agreement: dict[str, dict[str, float | None]] = Field(description="Spearman of metrics, over images")
    contradictions: list[Contradiction]
    settings: list[Done]
