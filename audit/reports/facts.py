"""What a report says besides the findings: the circumstances of the run, as the pipeline knows them."""

from typing import Any, Literal

from pydantic import Field

from fl_audit.core.knowledge import ThreatLevel
from fl_audit.reports._base import SCHEMA_VERSION, Model
from fl_audit.reports.seen_facts import ClientScalar, SeenRound

Params = dict[str, Any]
"""Parameters of a unit, JSON values."""


class Scenario(Model):
    """Under which circumstances the federation ran."""

    name: str
    words: str


class ThreatModel(Model):
    """What the server knows besides the updates."""

    level: ThreatLevel
    words: str
    granted: list[str] = Field(description="names of the Knowledge fields that are granted")
    granted_words: list[str] = Field([], description="the same in words, one each")


class DatasetFacts(Model):
    """The data set."""

    name: str = Field(description="as configured")
    title: str = Field(description="with its provenance")
    shape: tuple[int, int, int] = Field(description="channels, height, width")
    classes: list[str]
    images: int = Field(ge=0)
    partition: str = Field(description="how it was split among the clients")


class ModelFacts(Model):
    """The architecture."""

    name: str = Field(description="as configured")
    params: Params = {}
    parameters: int = Field(ge=0, description="number of trainable values")


class FederationFacts(Model):
    """Who took part and how they trained."""

    engine: str
    strategy: str
    clients: int = Field(ge=1)
    rounds: int = Field(ge=1)
    fraction: float = Field(1.0, gt=0, le=1, description="share of the clients sampled each round")
    training: Params = Field(description="how each client trains, as configured")


class UnitFacts(Model):
    """An attack and its parameters."""

    name: str = Field(description="as configured; findings carry this name")
    params: Params = {}
    description: str = ""
    paper: str = ""


class Attacked(Model):
    """Which updates were attacked."""

    rounds: list[int]
    clients: list[int]
    rule: str = Field(description="how they were chosen, in words")


class Recognisability(Model):
    """The rule that says whether a person would recognise a reconstruction."""

    name: str
    description: str
    calibrated: bool = Field(description="whether the rule was calibrated on people's or a proxy's labels")
    metric: str = Field(description="the metric it rests on; reports sort by it")
    threshold: float | None = Field(
        None, description="least p_recognisable that counts; null: no probability"
    )


class MetricFacts(Model):
    """A metric's declaration; colours and sorting read this and never the name."""

    name: str
    label: str = Field(description="how reports call it, e.g. PSNR (dB)")
    better: Literal["higher", "lower"] = Field(description="which direction means closer: more leakage")
    range: tuple[float | None, float | None] = Field(description="null: unbounded")
    per_image: bool = True
    brief: bool = Field(True, description="whether short tables show it")
    unavailable: str | None = Field(None, description="why it could not be measured; null if it was")
    description: str = Field("", description="what it measures, in a line")


class SetScore(Model):
    """A metric of whole sets, e.g. FID: all graded reconstructions of one attack against their originals."""

    metric: str
    attack: str
    images: int = Field(ge=0)
    value: float | None = None
    reason: str | None = Field(None, description="why there is no value; null if there is one")


class GuessFacts(Model):
    """Scores of one kind of guess (negative control), one entry per attacked original."""

    kind: str = Field(description="e.g. mean-image")
    words: str = Field("", description="what is guessed, in words")
    scores: dict[str, list[float | None]]
    recognisable: list[bool | None]


class UtilityRound(Model):
    """The global model after one round."""

    round: int = Field(ge=0)
    accuracy: float | None = Field(None, ge=0, le=1, description="on the held-out test set")
    loss: float | None = None
    client_accuracy: float | None = Field(None, ge=0, le=1, description="mean over the clients' own tests")


class Utility(Model):
    """What the model is worth: at the end and after each round."""

    accuracy: float | None = Field(None, ge=0, le=1)
    source: str = Field(
        "", description="whose figure the accuracy is, in words; empty: measured by the audit"
    )
    loss: float | None = None
    rounds: list[UtilityRound] = []


class ClientFailure(Model):
    """A round in which a client sent nothing usable."""

    round: int = Field(ge=1)
    reason: str


class ClientFacts(Model):
    """What is known of one client under one defense besides the findings."""

    client: int = Field(ge=0)
    rounds_participated: int | None = Field(None, ge=0)
    epsilon: float | None = Field(None, ge=0, description="over its rounds; null: no guarantee")
    accuracy: float | None = Field(None, ge=0, le=1, description="of the final model on its own test set")
    in_clear: dict[str, ClientScalar] = Field({}, description="what its replies told besides the update")
    failures: list[ClientFailure] = []
    seen: list[SeenRound] = Field([], description="what its attacked updates gave away besides images")


class OwnProtection(Model):
    """Something by which an audited app itself protects its clients' updates."""

    name: str = Field(description="e.g. LocalDpMod or SecAgg+")
    detail: str = Field(description="what it does, and its settings, in words")


class DefenseBase(Model):
    """What was done to the updates, what it guarantees and what it cost."""

    name: str = Field(description="as configured, e.g. prune:0.9; findings carry this name")
    slug: str = Field(description="its folder name")
    baseline: bool = Field(description="whether this is the undefended baseline")
    description: str = ""
    params: Params = {}
    epsilon: float | None = Field(None, ge=0, description="over all rounds; null: no guarantee")
    delta: float | None = Field(None, ge=0, le=1)
    privacy: str = Field("", description="the guarantee in words: what is protected, by which accountant")
    against_server: bool = Field(
        True, description="whether epsilon holds against the server, or only against others"
    )
    own: list[OwnProtection] | None = Field(
        None, description="what the audited app brings itself, as far as found; null: no app of somebody's"
    )
    elsewhere: bool = Field(
        False,
        description="whether somebody's own federation was recorded, whose protections are not known",
    )
    server_sees: str = Field("", description="what the server still sees, where it is not what clients sent")
    utility: Utility = Utility()
    sets: list[SetScore] = Field([], description="metrics that compare whole sets of images")


class DefenseFacts(DefenseBase):
    """A defense with its clients, as the pipeline knows them."""

    clients: list[ClientFacts] = []


class RunFacts(Model):
    """Everything about a run that is not a result."""

    schema_version: Literal[1] = SCHEMA_VERSION
    run_id: str
    seed: int = Field(ge=0)
    scenario: Scenario
    threat_model: ThreatModel
    dataset: DatasetFacts
    model: ModelFacts
    federation: FederationFacts
    attacks: list[UnitFacts]
    attacked: Attacked
    recognisability: Recognisability
    metrics: list[MetricFacts]
    how_to_repeat: str = Field(description="the command")
    baseline_from: str | None = Field(
        None, description="which run baseline and controls were taken over from, in words; null: none"
    )
    doubt: str = Field(
        "", description="what the audit is known not to know of how an app's clients train; empty: nothing"
    )
    limit: str = Field("", description="how many images of an update are graded, where that left some out")
    versions: dict[str, str | None] = {}
