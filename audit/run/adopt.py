"""Making a run folder of captures that ``audited(...)`` took in somebody's own federation.

There is no ground truth beside them: the attack runs, its images are there to be looked at, and the report
says that nothing was graded.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from fl_audit.core.captures import list_captures, read_cohort, read_sent, read_update
from fl_audit.core.errors import CaptureError, ConfigError
from fl_audit.core.files import write_json, write_text
from fl_audit.core.images import write_png
from fl_audit.core.recorded import read_recorded
from fl_audit.core.registry import parse_params
from fl_audit.core.seeding import seeded_globals
from fl_audit.core.types import (
    EVERYONE,
    CaptureKey,
    Contribution,
    Scalar,
    TrainingDetails,
    num_examples,
)
from fl_audit.reports.schema import (
    ClientFacts,
    ClientFailure,
    DatasetFacts,
    ModelFacts,
    OwnProtection,
    Utility,
)
from fl_audit.run.facts import AppScene, Scene
from fl_audit.run.folder import RunFolder
from fl_audit.run.grants import Grant, GrantedShare, write_grant
from fl_audit.run.jobs import jobs
from fl_audit.run.load import dump_config, resolve_config
from fl_audit.run.manifest import write_manifest
from fl_audit.run.record import FederationRecord, write_record
from fl_audit.run.results import read_reconstruction
from fl_audit.run.shown import MOST
from fl_audit.run.weights import load_weights, model_spec

_TRAINING = TypeAdapter(TrainingDetails)
_WORDS = (
    "A federation of your own, recorded by audited(...): what ran is not known here beyond its messages. "
    "There is no ground truth, so that nothing is graded; the reconstructions are in the run folder."
)


def adopt_captures(
    root: Path,
    *,
    model: str,
    num_classes: int,
    image_shape: tuple[int, int, int],
    training: str | None = None,
    attack: Sequence[str] = (),
    budget: float | None = None,
    command: Sequence[str] = (),
) -> RunFolder:
    """Write beside ``root/captures`` what the later stages need.

    Args:
        root: the folder given to ``audited`` as ``out``.
        model: the clients' architecture, for images in [0, 1].
        num_classes: number of logits.
        image_shape: ``(C, H, W)``.
        training: how clients train, if the attacker is to know: ``learning_rate=0.1,batch_size=1,…``, the
            fields of `TrainingDetails`.
        attack: attacks; none: the default one.
        budget: seconds for each client.
        command: the command line, for the manifest.

    Raises:
        ConfigError: there are no captures, the model does not fit them, or a name is wrong.
    """
    folder = RunFolder(root)
    slugs = sorted(
        path.name for path in folder.captures.glob("*") if list_captures(folder.captures, path.name)
    )
    keys = [key for slug in slugs for key in list_captures(folder.captures, slug)]
    if not keys:
        raise ConfigError(f"{root}: neither a run folder (no config.yaml) nor captures of audited(...)")
    details = None if training is None else _details(training)
    rounds = max(key.round for key in keys)
    clients = max(client for key in keys for client in _clients(folder, key)) + 1
    overrides: dict[str, object] = {
        "model": model,
        "defenses": [slug for slug in slugs if slug != "none"],
        "baseline": "none" in slugs,
        "data.dataset": "captures",
        "data.partition": "unknown",
        "federation.strategy": "yours",
        "federation.rounds": rounds,
        "federation.clients": clients,
        "attack.rounds": rounds,
        "attack.budget": budget,
        "threat.level": "B" if details is None else "C",
        "threat.labels": False,
    }
    if attack:
        overrides["attack.names"] = list(attack)
    config = resolve_config(None, overrides)
    parameters = _check_model(folder, keys, model, image_shape, num_classes)
    granted = Grant(
        level=config.threat.level,
        model=model,
        loss=config.threat.loss,
        num_classes=num_classes,
        image_shape=image_shape,
        training=details,
    )
    for key in keys:
        # Who took part in an aggregate, and with which weight, travels in clear.
        shares = [
            GrantedShare(weight=part.weight, num_examples=num_examples(part.metrics), training=details)
            for part in _cohort(folder, key)
        ]
        write_grant(folder.knowledge_file(key), granted.model_copy(update={"cohort": shares}))
    scene = Scene(
        dataset=DatasetFacts(
            name="captures",
            title="clients' own data",
            shape=image_shape,
            classes=[str(number) for number in range(num_classes)],
            images=0,
            partition="unknown",
        ),
        model=ModelFacts(name=model, parameters=parameters),
        app=AppScene(words=_WORDS, training={} if details is None else _TRAINING.dump_python(details)),
    )
    write_json(folder.scene, scene.model_dump(mode="json"))
    for slug in slugs:
        write_record(folder.federation(slug), _record(folder, slug, clients))
    text = dump_config(config)
    run_id = hashlib.sha256(text.encode()).hexdigest()[:12]
    write_manifest(folder.manifest, config, run_id, list(command), config.attack.device)
    write_text(folder.config, text)  # last: its presence makes this a run folder
    return folder


def write_pictures(folder: RunFolder) -> int:
    """Write reconstructions as ``N_rec.png`` beside their result, `MOST` of each; returns how many."""
    count = 0
    for job in jobs(folder, folder.load_config()):
        try:
            images = read_reconstruction(job.folder).images
        except CaptureError:
            continue
        for number, image in enumerate(() if images is None else images[:MOST]):
            write_png(job.folder / f"{number}_rec.png", image)
            count += 1
    return count


def _cohort(folder: RunFolder, key: CaptureKey) -> tuple[Contribution, ...]:
    return read_cohort(folder.captures, key) if key.client == EVERYONE else ()


def _clients(folder: RunFolder, key: CaptureKey) -> list[int]:
    """Whose update a capture is, or whose aggregate."""
    return [part.client for part in _cohort(folder, key)] or [key.client]


def _details(text: str) -> TrainingDetails:
    names = list(TrainingDetails.__dataclass_fields__)
    values = parse_params("training", text, text, names)
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise ConfigError(f"--training: unknown {', '.join(unknown)}. Valid: {', '.join(names)}")
    try:
        return _TRAINING.validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(
            f"--training: {'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}"
        ) from None


def _check_model(
    folder: RunFolder, keys: Sequence[CaptureKey], model: str, shape: tuple[int, int, int], classes: int
) -> int:
    """Build the model and fit it to the first capture; returns its trainable values."""
    with seeded_globals(0, "architecture"):
        module = model_spec(model, folder.root).build(shape, classes)
    load_weights(module, read_sent(folder.captures, keys[0]))
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _record(folder: RunFolder, slug: str, clients: int) -> FederationRecord:
    in_clear: dict[int, dict[str, Scalar]] = {}
    failures: dict[int, list[ClientFailure]] = {}
    times: dict[int, int] = {}
    for key in list_captures(folder.captures, slug):
        update = read_update(folder.captures, key)
        for client, metrics in update.in_clear().items():
            in_clear[client] = dict(metrics)
            times[client] = times.get(client, 0) + (update.error is None)
        if update.error is not None:
            failures.setdefault(key.client, []).append(ClientFailure(round=key.round, reason=update.error))
    return FederationRecord(
        utility=Utility(),
        elsewhere=True,
        own=[OwnProtection(name=one.name, detail=one.detail) for one in read_recorded(folder.captures / slug)]
        or None,
        clients=[
            ClientFacts(
                client=client,
                rounds_participated=times.get(client, 0),
                in_clear=in_clear.get(client, {}),
                failures=failures.get(client, []),
            )
            for client in range(clients)
        ],
    )
