"""What an app turned out to be in its first federation: configuration, scene, whether it is attacked."""

from fl_audit.core.captures import list_captures, read_update
from fl_audit.core.errors import CaptureError
from fl_audit.core.files import write_json
from fl_audit.core.losses import CROSS_ENTROPY, known_loss
from fl_audit.federation.apps import AppOutcome
from fl_audit.reports.schema import DatasetFacts, ModelFacts
from fl_audit.reports.words import spans
from fl_audit.run.app_engine import engine_words
from fl_audit.run.app_replay import Checked
from fl_audit.run.app_settings import AppSettings
from fl_audit.run.config import RunConfig
from fl_audit.run.facts import AppScene, Scene, read_scene
from fl_audit.run.folder import RunFolder
from fl_audit.run.originals import originals
from fl_audit.strategies._content import short

FEW = 64
"""Images in an update up to which labels are granted unless the user says otherwise: attacks attempt no more
than this without labels, and as many as there are with them."""


MOST = 8
"""Arrays that are listed."""


def learned(
    folder: RunFolder, config: RunConfig, settings: AppSettings, outcome: AppOutcome, slug: str
) -> RunConfig:
    """The configuration with rounds, training and granted labels as the first federation showed them."""
    total = max(outcome.rounds, default=1) if settings.rounds is None else settings.rounds
    updated = config.model_copy(
        update={
            "federation": config.federation.model_copy(
                update={"rounds": total, "clients": max(config.federation.clients, outcome.clients or 1)}
            ),
            "attack": config.attack.model_copy(
                update={
                    "rounds": None if settings.attack_rounds is None else min(settings.attack_rounds, total)
                }
            ),
        }
    )
    if settings.rounds is None:
        _keep_only(folder, slug, set(updated.attacked_rounds()))
    if settings.labels is None and settings.server_only and settings.truth is None:
        threat = updated.threat.model_copy(update={"labels": False})  # nobody knows them
        updated = updated.model_copy(update={"threat": threat})
    elif settings.labels is None:
        few = _most_images(folder, slug) <= FEW
        updated = updated.model_copy(update={"threat": updated.threat.model_copy(update={"labels": few})})
    found = None if outcome.loss is None else known_loss(outcome.loss)
    if found is not None and config.threat.loss == CROSS_ENTROPY:
        threat = updated.threat.model_copy(update={"loss": outcome.loss})
        updated = updated.model_copy(update={"threat": threat})
    seen = outcome.training
    if seen is None and updated.threat.level == "C":  # nobody knows how the clients train
        threat = updated.threat.model_copy(update={"level": "B"})
        updated = updated.model_copy(update={"threat": threat})
    if seen is not None:
        training = config.training.model_copy(
            update={
                "batch_size": max(seen.batch_size, 1),
                "local_steps": max(seen.local_steps, 1),
                "local_epochs": None,
                "learning_rate": seen.learning_rate or config.training.learning_rate,
                "momentum": min(seen.momentum, 0.999),
                "weight_decay": seen.weight_decay,
                "train_mode": seen.train_mode,
            }
        )
        updated = updated.model_copy(update={"training": training})
    return updated


def aggregate_notes(outcome: AppOutcome) -> list[str]:
    """How the mean of each round of a federation that aggregates securely was had, a sentence each."""
    if outcome.secure is None:
        return []
    how, notes = outcome.secure.how, []
    if unmasked := [number for number, way in how.items() if way == "unmasked"]:
        notes.append(
            f"{'Rounds' if len(unmasked) > 1 else 'Round'} {spans(unmasked)}: the aggregate is the sum that "
            "the server takes the masks off, from the masked vectors and the shares that were recorded."
        )
    for number, why in sorted(outcome.secure.problems.items()):
        if how.get(number) == "next model":
            notes.append(
                f"Round {number}: the aggregate is the global model that came after, since the app's "
                f"strategy averages; the sum itself could not be had: {why}."
            )
        else:
            notes.append(f"Round {number}: not attacked, the aggregate could not be had: {why}.")
    return notes


def write_app_scene(
    folder: RunFolder, config: RunConfig, settings: AppSettings, outcome: AppOutcome, slug: str
) -> None:
    """Write ``scene.json``."""
    shape = outcome.image_shape or (0, 0, 0)
    scene = Scene(
        dataset=DatasetFacts(
            name=config.data.dataset,
            title=f"the training data of {settings.name}",
            shape=shape,
            classes=[str(number) for number in range(outcome.classes or 0)],
            images=0,
            partition=config.data.partition,
        ),
        model=ModelFacts(
            name="unknown" if outcome.recipe is None else outcome.recipe.words,
            params={},
            parameters=outcome.parameters or 0,
        ),
        app=AppScene(
            words=_words(config, settings, outcome),
            training=_training(config, outcome),
            engine=settings.engine,
        ),
    )
    write_json(folder.scene, scene.model_dump(mode="json"))


def note_check(folder: RunFolder, checked: Checked) -> None:
    """Keep in ``scene.json`` what replays say of how clients train; of a run that goes on, once."""
    scene = read_scene(folder.scene)
    if scene.app is not None:
        words = scene.app.words
        if checked.words and checked.words not in words:
            words = f"{words} {checked.words}"
        app = scene.app.model_copy(update={"words": words, "doubt": checked.doubt})
        write_json(folder.scene, scene.model_copy(update={"app": app}).model_dump(mode="json"))


def server_sees(folder: RunFolder, slug: str) -> str:
    """What the server saw of a client that trains no image model: sizes, and metrics in clear."""
    for key in list_captures(folder.captures, slug):
        update = read_update(folder.captures, key)
        if update.received:
            sizes = [
                f"{short(name, 60)} ({' x '.join(map(str, value.shape)) or 'one value'})"
                for name, value in update.received.items()
            ]
            more = f" and {len(sizes) - MOST} more" if len(sizes) > MOST else ""
            metrics = ", ".join(short(name, 60) for name in update.metrics) or "none"
            amount = "1 array" if len(sizes) == 1 else f"{len(sizes)} arrays"
            return (
                f"What the server sees of each client: {amount}, {', '.join(sizes[:MOST])}{more}; "
                f"metrics in clear: {metrics}."
            )
    return "No array came back to the server."


def _words(config: RunConfig, settings: AppSettings, outcome: AppOutcome) -> str:
    words = [
        f"The Flower app {settings.name} as it is, {config.federation.clients} clients "
        f"({settings.clients_from}), {engine_words(settings)}"
    ]
    if outcome.recipe is not None:
        words.append(f"Its model was found to be {outcome.recipe.words}.")
    if outcome.normalisation is not None:
        words.append(f"Normalisation of the images: {outcome.normalisation}.")
    if outcome.secure is not None:
        words.append(
            "It aggregates securely (SecAgg+): single updates reach the server masked. What is attacked is "
            "what the server learns of a round, the weighted mean of its clients' updates, as one update "
            "with the images of all of them."
        )
        words += aggregate_notes(outcome)
    words += [f"{note[:1].upper()}{note[1:]}." for note in outcome.notes]
    if outcome.failure is not None:
        words.append(f"It did not run to its end: {outcome.failure.text}.")
    return " ".join(words)


def _training(config: RunConfig, outcome: AppOutcome) -> dict[str, object]:
    seen = outcome.training
    if seen is None:
        return {}
    facts: dict[str, object] = {
        "optimizer": seen.optimizer,
        "learning_rate": seen.learning_rate,
        "batch_size": seen.batch_size,
        "local_steps": seen.local_steps,
        "train_mode": seen.train_mode,
        "loss": outcome.loss if config.threat.loss == CROSS_ENTROPY else config.threat.loss,
    }
    return facts | {
        name: value for name in ("momentum", "weight_decay", "clip_norm") if (value := getattr(seen, name))
    }


def _most_images(folder: RunFolder, slug: str) -> int:
    most = 0
    for key in list_captures(folder.captures, slug):
        try:
            most = max(most, len(originals(folder, key)))
        except CaptureError:
            continue
    return most


def _keep_only(folder: RunFolder, slug: str, rounds: set[int]) -> None:
    """Remove captures of rounds that are not attacked, once it is known how many there were."""
    for key in list_captures(folder.captures, slug):
        if key.round not in rounds:
            for root in (folder.captures, folder.truth):
                for path in (root / slug).glob(f"r{key.round:03d}-*"):
                    path.unlink(missing_ok=True)
