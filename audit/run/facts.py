"""The circumstances of a run, in the form that reports need: from the configuration and the capture stage."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from fl_audit.attacks import attacks
from fl_audit.core.captures import list_captures
from fl_audit.core.files import read_json, read_model, write_json
from fl_audit.core.registry import Unit
from fl_audit.core.units import ImageData
from fl_audit.metrics import Metric, RecognisabilityRule
from fl_audit.reports.describe import metric_facts
from fl_audit.reports.facts import Params
from fl_audit.reports.schema import (
    Attacked,
    DatasetFacts,
    FederationFacts,
    GuessFacts,
    ModelFacts,
    Recognisability,
    RunFacts,
    Scenario,
    ThreatModel,
    UnitFacts,
)
from fl_audit.run.baseline import baseline_words
from fl_audit.run.check import Units, granted_names
from fl_audit.run.config import SCENARIO_WORDS, SCENARIOS, RunConfig
from fl_audit.run.folder import RunFolder, slugs
from fl_audit.run.manifest import package_versions
from fl_audit.run.negative import NegativeControl
from fl_audit.run.originals import looked_at

GRANTED_WORDS = {
    "model": "the architecture",
    "loss": "the loss function",
    "num_classes": "the number of classes",
    "image_shape": "the shape of the images",
    "training": "learning rate, local steps, batch size, optimiser and train mode",
    "labels": "the true labels",
}

GUESS_WORDS = {
    "mean-image": "the mean of held-out images",
    "same-class": "another image of the same class",
}


class AppScene(BaseModel):
    """What there is to say of an audited app in place of a scenario.

    Attributes:
        words: what ran and what was found out about it.
        training: how its clients train, as seen.
        engine: what ran it.
        doubt: what is known not to be known of how its clients train, see `fl_audit.run.app_replay.Checked`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    words: str
    training: Params
    engine: str = "local"
    doubt: str = ""


class Scene(BaseModel):
    """What the capture stage saw of data and model, kept so that later stages need neither."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: DatasetFacts
    model: ModelFacts
    app: AppScene | None = None


def write_scene(folder: RunFolder, config: RunConfig, units: Units, data: ImageData, parameters: int) -> None:
    """Write ``scene.json``."""
    scene = Scene(
        dataset=DatasetFacts(
            name=config.data.dataset,
            title=data.title,
            shape=data.image_shape,
            classes=list(data.classes),
            images=len(data.images),
            partition=config.data.partition,
        ),
        model=ModelFacts(name=config.model, params=units.model.params(), parameters=parameters),
    )
    write_json(folder.scene, scene.model_dump(mode="json"))


def read_scene(path: Path) -> Scene:
    """Read ``scene.json``.

    Raises:
        CaptureError: it is missing or damaged: the capture stage has not finished.
    """
    return read_model(path, Scene, "what the capture stage writes")


def run_facts(
    folder: RunFolder, config: RunConfig, metrics: Mapping[str, Metric], rule: RecognisabilityRule
) -> RunFacts:
    """Everything that a report says of a run besides its results."""
    # The data set is not looked up: a copied run folder is graded where the data set is not.
    scene = read_scene(folder.scene)
    granted = sorted(granted_names(config.threat))
    manifest = read_json(folder.manifest)
    return RunFacts(
        run_id=manifest["run_id"],
        seed=config.seed,
        scenario=(
            Scenario(name="your app, unmodified", words=scene.app.words)
            if scene.app
            else Scenario(name=config.scenario, words=scenario_words(config))
        ),
        threat_model=ThreatModel(
            level=config.threat.level,
            words=config.threat.words,
            granted=granted,
            granted_words=[GRANTED_WORDS[name] for name in granted],
        ),
        dataset=scene.dataset,
        model=scene.model,
        federation=FederationFacts(
            engine=scene.app.engine if scene.app else config.federation.engine,
            strategy=config.federation.strategy,
            clients=config.federation.clients,
            rounds=config.federation.rounds,
            fraction=config.federation.fraction,
            training=scene.app.training if scene.app else config.training.model_dump(mode="json"),
        ),
        attacks=[_unit(spec, attacks.create(spec)) for spec in config.attack.names],
        attacked=Attacked(
            rounds=config.attacked_rounds(),
            clients=attacked_clients(folder, config),
            rule=attacked_rule(config, everyone=config.federation.fraction == 1),
        ),
        recognisability=Recognisability(
            name=rule.name,
            description=rule.description,
            calibrated=True,
            metric=rule.metric,
            threshold=rule.threshold,
        ),
        metrics=[metric_facts(metric, name) for name, metric in metrics.items()],
        how_to_repeat=shlex.join(["fl-audit", *manifest["command"][1:]]),
        baseline_from=baseline_words(manifest),
        doubt=scene.app.doubt if scene.app else "",
        versions=package_versions() | {"fl-audit": manifest["fl_audit"]["version"]},
    )


def guess_facts(negative: NegativeControl, rule: RecognisabilityRule) -> list[GuessFacts]:
    """The negative control as reports need it."""
    return [
        GuessFacts(
            kind=kind,
            words=GUESS_WORDS.get(kind, ""),
            scores={name: [_finite(value) for value in values.tolist()] for name, values in scores.items()},
            recognisable=[bool(value) for value in rule.judge(scores)],
        )
        for kind, scores in negative.scores.items()
    ]


def scenario_words(config: RunConfig) -> str:
    """The scenario in words, and which of its values the user changed."""
    words = SCENARIO_WORDS[config.scenario]
    changed = [
        f"{section}.{key} is {value!r}"
        for section, preset in SCENARIOS[config.scenario].items()
        for key, usual in preset.items()
        if (value := getattr(getattr(config, section), key)) != usual
    ]
    return f"{words} Changed here: {', '.join(changed)}." if changed else words


def attacked_clients(folder: RunFolder, config: RunConfig) -> list[int]:
    """The clients that there are captures of, under any defense."""
    keys = [
        key for slug in slugs(config.defense_specs()).values() for key in list_captures(folder.captures, slug)
    ]
    return sorted({client for key in keys for client in looked_at(folder, key, config)})


def attacked_rule(config: RunConfig, *, everyone: bool) -> str:
    """How the attacked rounds and clients were chosen, and how long an attack may take, in words.

    ``everyone``: whether all clients are known to take part in every round.
    """
    rounds, clients = config.federation.rounds, config.federation.clients
    which = (
        "all rounds"
        if len(config.attacked_rounds()) == rounds
        else f"{len(config.attacked_rounds())} of {rounds} rounds, evenly spaced"
    )
    who, most = "all clients", config.attack.clients
    if not everyone:
        who = "all clients that took part in such a round"
        if most is not None:
            who = f"of the clients that took part in such a round, the {most} with the lowest ids"
    elif most is not None and most < clients:
        who = f"the {most} of {clients} clients with the lowest ids"
    budget = config.attack.budget
    limit = "" if budget is None else f"; at most {budget:g} seconds of attacking for each client and round"
    return f"{which}; {who}{limit}"


def _unit(spec: str, unit: Unit) -> UnitFacts:
    return UnitFacts(
        name=spec, params=unit.params(), description=unit.summary(), paper=getattr(unit, "paper", "")
    )


def _finite(value: float) -> float | None:
    return value if value == value and abs(value) != float("inf") else None
