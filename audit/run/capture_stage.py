"""The capture stage: one federation for each defense, then the positive control. Needs Flower.

A federation that was interrupted starts again: it is deterministic, so its captures come out the same.
"""

import shutil
from dataclasses import replace

import torch

from fl_audit.core.captures import list_captures, read_update
from fl_audit.core.defended import DefendedModel
from fl_audit.core.progress import Progress
from fl_audit.core.seeding import seeded_globals
from fl_audit.core.training import Exposure
from fl_audit.core.types import Scalar
from fl_audit.core.units import ImageData
from fl_audit.data import Splits, client_splits
from fl_audit.federation import FederationResult, FederationSpec, Training, run_federation
from fl_audit.reports.schema import ClientFacts, ClientFailure, Utility, UtilityRound
from fl_audit.run.check import Units, check_names
from fl_audit.run.config import RunConfig
from fl_audit.run.control import capture_control
from fl_audit.run.facts import write_scene
from fl_audit.run.folder import CONTROL, RunFolder, slugs
from fl_audit.run.grants import grant_capture, write_grant
from fl_audit.run.negative import write_pool
from fl_audit.run.originals import truths_of
from fl_audit.run.record import FederationRecord, write_record


def capture_run(folder: RunFolder, config: RunConfig, progress: Progress, device: torch.device) -> None:
    """Run every federation that is not finished yet.

    Raises:
        FederationError: every client failed in a round.
        MissingDataError: the data set is not on this machine.
    """
    named = slugs(config.defense_specs())
    todo = [spec for spec, slug in named.items() if not folder.federation(slug).is_file()]
    if not todo and folder.federation(CONTROL).is_file():
        return
    units = check_names(config)
    data = units.dataset.load()
    splits = client_splits(
        data,
        units.partitioner,
        config.federation.clients,
        test_fraction=config.data.test_fraction,
        seed=config.seed,
    )
    _write_scene(folder, config, units, data)
    write_pool(folder, data, splits.held_out)
    federation = _federation(config, units, data, splits, device)
    progress.stage("federation", len(todo) * config.federation.rounds)
    for spec in todo:
        _capture(folder, config, units, federation, spec, named[spec], progress)
    if not folder.federation(CONTROL).is_file():
        _clear(folder, CONTROL)
        first, slug = next(iter(named.items()))
        capture_control(
            folder,
            config,
            slug,
            data,
            splits.held_out,
            DefendedModel(base=units.model, defense=units.defenses[first]),
            altered_by=_altered_by(units, first),
        )


def _federation(
    config: RunConfig, units: Units, data: ImageData, splits: Splits, device: torch.device
) -> FederationSpec:
    part = config.federation
    # The beginning of a split has the classes in proportion, so a cut keeps the measure fair.
    most = config.data.test_images
    tested = replace(
        splits,
        held_out=splits.held_out[:most],
        test=tuple(rows[: max(1, most // part.clients)] for rows in splits.test),
    )
    return FederationSpec(
        data=data,
        splits=tested,
        model=units.model,
        training=Training(**config.training.model_dump()),
        engine=part.engine,
        rounds=part.rounds,
        clients=part.clients,
        fraction=part.fraction,
        strategy=part.strategy,
        seed=config.seed,
        ray_address=part.ray_address,
        client_cpus=part.client_cpus,
        client_gpus=part.client_gpus,
        device="cpu" if part.engine == "ray" and not part.client_gpus else str(device),
        timeout=part.timeout,
    )


def _capture(
    folder: RunFolder,
    config: RunConfig,
    units: Units,
    federation: FederationSpec,
    spec: str,
    slug: str,
    progress: Progress,
) -> None:
    _clear(folder, slug)
    rounds, defense = set(config.attacked_rounds()), units.defenses[spec]
    progress.begin(f"federation under {spec}")
    result = run_federation(
        federation,
        defense=defense,
        defense_slug=slug,
        out=folder.root,
        progress=progress,
        attack_filter=lambda number, client: number in rounds,
        # The mean of a round is that of all its clients, whichever of them are looked at.
        attack_clients=None if defense.aggregates else config.attack.clients,
    )
    in_clear: dict[int, dict[str, Scalar]] = {}
    for key in list_captures(folder.captures, slug):
        update = read_update(folder.captures, key)
        for client, metrics in update.in_clear().items():
            in_clear[client] = dict(metrics) or in_clear.get(client, {})
        truths, _ = truths_of(folder, key)  # a client that failed has none; its finding says so
        granted = grant_capture(
            config.threat,
            update,
            truths,
            model=config.model,
            num_classes=len(federation.data.classes),
            image_shape=federation.data.image_shape,
            altered_by=_altered_by(units, spec),
        )
        write_grant(folder.knowledge_file(key), granted)
    for problem in result.failures:
        progress.note(f"{spec}: client {problem.client} failed in round {problem.round}: {problem.reason}")
    for problem in result.truth_unavailable:
        progress.note(
            f"{spec}: no truth of client {problem.client} in round {problem.round}: {problem.reason}"
        )
    training = units.defenses[spec].training(federation.training)
    held = [len(federation.train_indices(client)) for client in range(config.federation.clients)]
    exposures = [Exposure(rate=training.rate(n), steps=training.steps(n)) for n in held]
    write_record(folder.federation(slug), _record(result, exposures, in_clear))


def _record(
    result: FederationResult, exposures: list[Exposure], in_clear: dict[int, dict[str, Scalar]]
) -> FederationRecord:
    rounds = [
        UtilityRound(
            round=entry.round,
            accuracy=entry.accuracy,
            loss=entry.loss,
            client_accuracy=_mean(list(entry.client_accuracy.values())),
        )
        for entry in result.rounds
    ]
    last = result.rounds[-1] if result.rounds else None
    return FederationRecord(
        utility=Utility(
            accuracy=None if last is None else last.accuracy,
            loss=None if last is None else last.loss,
            rounds=rounds,
        ),
        clients=[
            ClientFacts(
                client=client,
                rounds_participated=result.participation.get(client, 0),
                accuracy=None if last is None else last.client_accuracy.get(client),
                in_clear=in_clear.get(client, {}),
                failures=[
                    ClientFailure(round=failure.round, reason=failure.reason)
                    for failure in result.failures
                    if failure.client == client
                ],
            )
            for client in range(len(exposures))
        ],
        exposures=exposures,
    )


def _altered_by(units: Units, spec: str) -> str | None:
    """The defense, where it makes another architecture of the model."""
    return spec if units.defenses[spec].reshapes else None


def _write_scene(folder: RunFolder, config: RunConfig, units: Units, data: ImageData) -> None:
    with seeded_globals(config.seed, "scene"):
        model = units.model.build(data.image_shape, len(data.classes))
        for defense in units.defenses.values():  # one that cannot act on this model says so before any work
            DefendedModel(base=units.model, defense=defense).build(data.image_shape, len(data.classes))
    count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    write_scene(folder, config, units, data, count)


def _clear(folder: RunFolder, slug: str) -> None:
    """Remove what an interrupted federation left, so that no half capture of it is ever attacked."""
    for part in (folder.captures, folder.truth, folder.knowledge, folder.reconstructions):
        shutil.rmtree(part / slug, ignore_errors=True)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
