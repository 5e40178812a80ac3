"""The capture stage of a user's app: one federation for each defense in a process of its own, then controls.

What the app turned out to be, its model and how its clients train, is learned from the first federation.
"""

import shutil
from dataclasses import replace
from pathlib import Path

from fl_audit.core.captures import list_captures, read_update
from fl_audit.core.errors import FederationError
from fl_audit.core.files import write_json, write_text
from fl_audit.core.progress import Progress
from fl_audit.core.types import Reconstruction, Scalar
from fl_audit.federation.apps import FROZEN, AppJob, AppOutcome, run_app
from fl_audit.reports.schema import ClientFacts, ClientFailure, OwnProtection
from fl_audit.run.app_accuracy import accuracy_of
from fl_audit.run.app_control import control_of_app
from fl_audit.run.app_fit import attackable, failures_of, unfit, without_arrays
from fl_audit.run.app_replay import Checked, check_training
from fl_audit.run.app_scene import aggregate_notes, learned, note_check, server_sees, write_app_scene
from fl_audit.run.app_settings import PROCESSES, AppSettings, read_settings
from fl_audit.run.config import RunConfig
from fl_audit.run.folder import CONTROL, RunFolder, slugs
from fl_audit.run.grants import grant_capture, write_grant
from fl_audit.run.jobs import jobs
from fl_audit.run.load import dump_config
from fl_audit.run.originals import truths_of
from fl_audit.run.record import FederationRecord, write_record
from fl_audit.run.results import write_reconstruction
from fl_audit.run.weights import CODE, RECIPE, VALUES

AGGREGATE_ALONE = (
    "The app aggregates securely: the server sees the weighted mean of a round's updates and no single one, "
    "and that mean is what is attacked. Who took part, each one's num-examples, which are the weights, and "
    "its other metrics travel in clear."
)


def capture_app(folder: RunFolder, config: RunConfig, progress: Progress) -> RunConfig:
    """Run every federation of the app that is not finished yet; returns the configuration as it turned out.

    Raises:
        FederationError: the app failed before anything could be captured; its own traceback is in it.
    """
    settings = read_settings(folder)
    named = slugs(config.defense_specs())
    todo = [spec for spec, slug in named.items() if not folder.federation(slug).is_file()]
    if not todo and folder.federation(CONTROL).is_file():
        return config
    progress.stage("federation", len(todo) * (settings.rounds or 1))
    for spec in todo:
        outcome = _federate(folder, config, settings, spec, named[spec], progress)
        if not folder.scene.is_file():
            config = learned(folder, config, settings, outcome, named[spec])
            write_text(folder.config, dump_config(config))
            if outcome.recipe is not None:
                write_json(folder.root / RECIPE, outcome.recipe.model_dump(mode="json"))
                frozen = folder.root / PROCESSES / named[spec] / FROZEN
                if frozen.is_file():
                    shutil.copyfile(frozen, folder.root / VALUES)
            write_app_scene(folder, config, settings, outcome, named[spec])
        watched = not settings.server_only
        _grants(folder, config, outcome, named[spec], progress, watched=watched)
        if spec == "none":
            _note_doubts(folder, config, outcome, named[spec])
        write_record(folder.federation(named[spec]), _record(folder, config, outcome, named[spec]))
    if not folder.federation(CONTROL).is_file():
        _clear(folder, CONTROL)
        control_of_app(folder, config, named, progress)
    return config


def _note_doubts(folder: RunFolder, config: RunConfig, outcome: AppOutcome, slug: str) -> None:
    """Keep what the audit does not know of how the clients train."""
    checked, explained = Checked(""), not outcome.own and outcome.secure is None
    if outcome.training is not None and explained:
        checked = check_training(folder, config, slug, half=outcome.half)
    elif outcome.died and outcome.image_shape is not None:
        checked = Checked("", "the process that ran the app did not live to tell how its clients trained")
    doubts = "; ".join(filter(None, [checked.doubt, *outcome.differing]))
    if checked.words or doubts:
        note_check(folder, replace(checked, doubt=doubts))


def _federate(
    folder: RunFolder, config: RunConfig, settings: AppSettings, spec: str, slug: str, progress: Progress
) -> AppOutcome:
    _clear(folder, slug)
    progress.begin(f"{settings.name} under {spec}")
    seen = 0

    def on_round(_: int) -> None:
        nonlocal seen
        seen += 1
        if seen <= (settings.rounds or 1):
            progress.advance()

    known = settings.rounds is not None or folder.scene.is_file()
    place = folder.root / PROCESSES / slug
    outcome = run_app(
        AppJob(
            folder="",
            code=str((folder.root / CODE).resolve()),
            server=settings.server,
            client=settings.client,
            config=settings.config,
            clients=settings.clients,
            seed=config.seed,
            defense=spec,
            slug=slug,
            out=str(folder.root.resolve()),
            rounds=config.attacked_rounds() if known else None,
            attacked=config.attack.clients,
            timeout=settings.timeout,
            disk=settings.disk,
            input_range=settings.input_range,
            image_shape=settings.image_shape,
            model=settings.model,
            truth=settings.truth,
            engine=settings.engine,
            deployment=settings.deployment,
            superlink=settings.superlink,
            server_only=settings.server_only,
        ),
        place,
        on_round,
    )
    _judge(folder, outcome, slug, place, progress)
    return outcome


def _judge(folder: RunFolder, outcome: AppOutcome, slug: str, place: Path, progress: Progress) -> None:
    """Fail where nothing was captured; where something was, say what went wrong and go on."""
    keys = list_captures(folder.captures, slug)
    usable = any(read_update(folder.captures, key).error is None for key in keys)
    failure = outcome.failure
    log = f"What the app printed: {place / 'app.log'}"
    if any(place.glob("supernode-*.log")):
        log += f", at its clients: {place}/supernode-*.log"
    if failure is not None:
        whose = {
            "import": "the app cannot be imported",
            "server": "the app's server failed",
            "wait": "the app does not go on",
            "process": "the app's process ended",
            "flower": "Flower failed to run the app",
        }[failure.where]
        text = f"{whose}: {failure.text}"
        if failure.traceback and not usable:
            text += (
                f"\n  the app's own traceback:\n    {failure.traceback.replace(chr(10), chr(10) + '    ')}"
            )
        if not usable:
            if failure.where == "import" and "ModuleNotFoundError" in failure.text:
                text += "\nInstall what the app needs into this environment, e.g. pip install -e DIR"
            raise FederationError(f"{text}\n{log}")
        progress.note(f"{text}. What was captured until then is kept and attacked. {log}")
    elif not usable and outcome.secure is not None and outcome.secure.problems:
        told = "; ".join(
            f"round {number}: {why}" for number, why in list(outcome.secure.problems.items())[:5]
        )
        raise FederationError(
            "the app aggregates securely (SecAgg+), and of no round the aggregate could be had: "
            f"{told}\n{log}"
        )
    elif not usable:
        reasons = sorted({problem.reason.removeprefix("the client failed: ") for problem in outcome.failures})
        if reasons:
            own = next(iter(outcome.tracebacks.values()), "").replace("\n", "\n    ")
            shown = f"\n  the app's own traceback, of one client:\n    {own}" if own else ""
            raise FederationError(
                f"the app ran to its end, but every client failed: {'; '.join(reasons[:5])}{shown}\n{log}"
            )
        raise FederationError(f"the app ran to its end, but no client was asked to train\n{log}")
    for note in (*outcome.notes, *aggregate_notes(outcome)):
        progress.note(note)
    for problem in failures_of(outcome)[:10]:
        progress.note(f"client {problem.client} failed in round {problem.round}: {problem.reason}")


def _grants(
    folder: RunFolder, config: RunConfig, outcome: AppOutcome, slug: str, progress: Progress, *, watched: bool
) -> None:
    """Write what the attacker is told of each capture; what cannot be attacked gets its result at once."""
    reason = without_arrays(folder, slug) or attackable(config, outcome, watched=watched)
    reason = reason or unfit(folder, config, outcome)
    if reason is not None:
        progress.note(f"not attacked: {reason}")
    shape, classes = outcome.image_shape, outcome.classes
    for key in list_captures(folder.captures, slug):
        if reason is None and shape is not None and classes is not None:
            truths, _ = truths_of(folder, key)  # a client that failed has none; its finding says so
            granted = grant_capture(
                config.threat,
                read_update(folder.captures, key),
                truths,
                model=config.model,
                num_classes=classes,
                image_shape=shape,
            )
            write_grant(folder.knowledge_file(key), granted)
    if reason is not None:
        for job in jobs(folder, config):
            if job.key.defense == slug:
                write_reconstruction(job.folder, Reconstruction("failed", reason=reason, unattempted=reason))


def _record(folder: RunFolder, config: RunConfig, outcome: AppOutcome, slug: str) -> FederationRecord:
    in_clear: dict[int, dict[str, Scalar]] = {}
    for key in list_captures(folder.captures, slug):
        for client, metrics in read_update(folder.captures, key).in_clear().items():
            in_clear[client] = dict(metrics) or in_clear.get(client, {})
    told, failures = accuracy_of(outcome), failures_of(outcome)
    # Who did not live to tell may have taken part in all rounds: epsilon must not be too small.
    most = config.federation.rounds if outcome.died and not outcome.participation else 0
    sees = AGGREGATE_ALONE if outcome.secure is not None else ""
    if outcome.image_shape is None:
        sees = server_sees(folder, slug)
    return FederationRecord(
        own=[OwnProtection(name=found.name, detail=found.detail) for found in outcome.own],
        server_sees=sees,
        utility=told.utility,
        clients=[
            ClientFacts(
                client=client,
                rounds_participated=outcome.participation.get(client, most),
                accuracy=told.clients.get(client),
                in_clear=in_clear.get(client, {}),
                failures=[
                    ClientFailure(round=failure.round, reason=failure.reason)
                    for failure in failures
                    if failure.client == client
                ],
            )
            for client in outcome.numbers or range(config.federation.clients)
        ],
    )


def _clear(folder: RunFolder, slug: str) -> None:
    """Remove what an interrupted federation left, so that no half capture of it is ever attacked."""
    arriving = folder.truth / ".arriving"
    for part in (folder.captures, folder.truth, folder.knowledge, folder.reconstructions, arriving):
        shutil.rmtree(part / slug, ignore_errors=True)
