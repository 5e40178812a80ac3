"""The configuration of a run: one schema, two levels deep, unknown keys rejected.

Precedence: defaults, scenario, file, command line. The resolved configuration is saved with each run.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from fl_audit.core.errors import ConfigError
from fl_audit.core.knowledge import THREAT_LEVELS, Sends
from fl_audit.core.sweep import expand_all

DEFAULT_ATTACKED = 3
"""Rounds that are attacked unless the user says how many: enough to see whether leakage falls."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class FederationConfig(_Section):
    """Who takes part, for how long, and what runs it."""

    engine: Literal["local", "ray"] = Field(
        "local", description="local: one process, bit-reproducible. ray: Flower's simulation"
    )
    rounds: int = Field(40, ge=1, le=100_000, description="rounds of the federation")
    clients: int = Field(6, ge=1, le=100_000, description="clients in the federation")
    fraction: float = Field(1.0, gt=0, le=1, description="share of the clients sampled each round")
    strategy: str = Field(
        "fedavg", description="Flower strategy: a name or module:Class, with :key=value,… parameters"
    )
    timeout: float = Field(3600.0, gt=0, description="seconds that a round waits for its clients")
    ray_address: str | None = Field(
        None, description="address of a Ray cluster; null starts one on this machine"
    )
    client_cpus: float = Field(1.0, gt=0, description="CPU cores for each client (engine ray)")
    client_gpus: float = Field(
        0.0, ge=0, description="GPUs, or a fraction of one, for each client (engine ray)"
    )


class DataConfig(_Section):
    """What the clients hold."""

    dataset: str = Field("faces", description="name, image folder, PATH.zip:inner/folder or module:function")
    partition: str = Field("iid", description="how the data is split: iid, dirichlet:ALPHA or by-class")
    test_fraction: float = Field(
        0.2, gt=0, lt=1, description="share held out for utility, of each client and overall"
    )
    test_images: int = Field(
        500,
        ge=1,
        description="most images that utility is measured on in a round, held out and at clients each",
    )


class TrainingConfig(_Section):
    """How each client trains in a round (plain SGD)."""

    batch_size: int = Field(1, ge=1, description="images in one local step")
    local_steps: int | None = Field(1, ge=1, description="SGD steps in a round; null: local_epochs decides")
    local_epochs: int | None = Field(None, ge=1, description="passes over the client's data in a round")
    learning_rate: float = Field(0.03, gt=0, description="SGD step size")
    momentum: float = Field(0.0, ge=0, lt=1, description="heavy-ball factor")
    weight_decay: float = Field(0.0, ge=0, description="L2 factor")
    train_mode: bool = Field(False, description="true: batch norm uses the batch, dropout is on")

    @model_validator(mode="after")
    def _one_length(self) -> "TrainingConfig":
        if (self.local_steps is None) == (self.local_epochs is None):
            raise ValueError("set either local_steps or local_epochs, and the other to null")
        return self


class ThreatConfig(_Section):
    """What the honest-but-curious server knows besides the updates."""

    level: Literal["A", "B", "C"] = Field(
        "C", description="level of the SoK taxonomy: A updates only, B informed, C parameter-aware"
    )
    labels: bool = Field(True, description="whether the true labels are granted besides")
    loss: str = Field(
        "cross-entropy",
        description="the clients' loss: cross-entropy, cross-entropy(label_smoothing=0.1), or "
        "module:function(logits, labels)",
    )
    sends: Sends | None = Field(
        None, description="what clients send: weights, delta or gradient; null: told from the magnitudes"
    )

    @property
    def words(self) -> str:
        """The level in words, and whether labels are known."""
        labels = (
            "the true labels are granted" if self.labels else "labels are not granted: the attack infers them"
        )
        return f"{THREAT_LEVELS[self.level]}; {labels}"


class AttackConfig(_Section):
    """What is attacked, and with what."""

    names: Annotated[list[str], Field(min_length=1)] = Field(
        ["auto"], description="attacks, with :key=value,… parameters"
    )
    rounds: int | None = Field(
        None,
        ge=1,
        description="how many rounds to attack, evenly spaced from the first to the last; null: three",
    )
    clients: int | None = Field(
        None,
        ge=1,
        description="how many clients to attack in each of these rounds: of those that take part in it, the "
        "ones with the lowest ids; null: all of them",
    )
    device: str = Field("auto", description="auto (CUDA where there is one), cpu, cuda, cuda:1 …")
    workers: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="processes that attack side by side on a CPU; null: one for each core",
    )
    budget: float | None = Field(
        None,
        gt=0,
        description="seconds that an attack may take for each client; null: until it is done. With a budget "
        "the results depend on the speed of the machine",
    )
    control_images: int = Field(
        2, ge=1, le=64, description="images of the positive control in each attacked round"
    )


class GradeConfig(_Section):
    """What the reconstructions are measured by."""

    metrics: Annotated[list[str], Field(min_length=1)] | None = Field(
        None,
        description="metrics, with :key=value,… parameters; null, or default in the list: the cheap ones",
    )

    @field_validator("metrics")
    @classmethod
    def _different(cls, value: list[str] | None) -> list[str] | None:
        twice = sorted({name for name in value or () if (value or []).count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is listed twice")
        return value


class RunConfig(_Section):
    """A whole run. `fl-audit run --print-config` prints it with every default."""

    seed: int = Field(0, ge=0, lt=2**63, description="every random choice follows from it")
    scenario: Literal["worst-case", "typical"] = Field(
        "worst-case", description="where unset keys get their values"
    )
    model: str = Field("lenet", description="architecture: a name, torchvision's or module:function")
    defenses: list[str] = Field(
        [], description="defenses to compare, with :key=value,… parameters; 'dp:0.1,1,10' (quoted) is a sweep"
    )
    baseline: bool = Field(True, description="run the undefended baseline beside them")
    federation: FederationConfig = FederationConfig()
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()
    threat: ThreatConfig = ThreatConfig()
    attack: AttackConfig = AttackConfig()
    grade: GradeConfig = GradeConfig()

    @field_validator("defenses", mode="before")
    @classmethod
    def _quoted(cls, value: object) -> object:
        if isinstance(value, list) and any(isinstance(item, int | float) for item in value):
            raise ValueError(
                "a number stands where a defense is expected. In YAML a list of values needs quotes: "
                "['dp:noise_multiplier=0.1,1,10']"
            )
        return value

    @field_validator("defenses")
    @classmethod
    def _different(cls, value: list[str]) -> list[str]:
        try:
            expand_all(value)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "RunConfig":
        if self.attack.rounds is not None and self.attack.rounds > self.federation.rounds:
            raise ValueError(
                f"attack.rounds (--attack-rounds) is {self.attack.rounds}, but the federation has only "
                f"{self.federation.rounds} (federation.rounds, --rounds)"
            )
        if self.attack.clients is not None and self.attack.clients > self.federation.clients:
            raise ValueError(
                f"attack.clients (--attack-clients) is {self.attack.clients}, but the federation has only "
                f"{self.federation.clients} (federation.clients, --clients)"
            )
        if not self.defenses and not self.baseline:
            raise ValueError("nothing to audit: no defenses are listed and the baseline is switched off")
        return self

    def defense_specs(self) -> list[str]:
        """The defenses to run, sweeps expanded, the undefended baseline first unless it is switched off."""
        rest = [spec for spec in expand_all(self.defenses) if spec != "none"]
        return ["none", *rest] if self.baseline or "none" in self.defenses else rest

    def attacked_rounds(self) -> list[int]:
        """The rounds to attack: evenly spaced, the first and the last included."""
        total = self.federation.rounds
        wanted = self.attack.rounds or min(DEFAULT_ATTACKED, total)
        if wanted == 1:
            return [1]
        return sorted({1 + round(step * (total - 1) / (wanted - 1)) for step in range(wanted)})


SCENARIOS: dict[str, dict[str, dict[str, object]]] = {
    "worst-case": {
        "training": {"batch_size": 1, "local_steps": 1, "local_epochs": None, "train_mode": False},
        "threat": {"level": "C", "labels": True},
    },
    "typical": {
        "training": {"batch_size": 8, "local_steps": None, "local_epochs": 1, "train_mode": True},
        "threat": {"level": "B", "labels": False},
    },
}
"""Values that a scenario gives to keys which neither the file nor the command line sets."""

SCENARIO_WORDS = {
    "worst-case": (
        "Upper bound: each client takes one local SGD step on a small batch in a round, and the server knows "
        "the labels and how the clients train. What cannot be recognised here is unlikely to be in practice."
    ),
    "typical": (
        "As federations usually run: each client trains for local epochs over mini-batches, and the server "
        "knows the architecture, the image shape and the classes, but neither labels nor training details."
    ),
}
