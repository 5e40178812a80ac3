"""What is told at the end of an app's federation, put together from watch, observer and recorder."""

import traceback
from collections.abc import Sequence
from pathlib import Path

from fl_audit.core.errors import ConfigError
from fl_audit.federation.apps.job import AppFailure, AppJob, AppOutcome, Secure, Seen, Where
from fl_audit.federation.apps.observe import AppObserver, BudgetRecorder
from fl_audit.federation.apps.watch import Watch
from fl_audit.models.app_model import Recipe

APART = 2e-3
"""Means and deviations that are further apart are others; what is worked out from pixels is rounded."""


def watch_for(job: AppJob) -> Watch:
    """A watch that knows what the user said."""
    return Watch(
        input_range=job.input_range,
        image_shape=job.image_shape,
        model=None if job.model is None else Recipe(target=job.model),
    )


def seen_by(watch: Watch) -> Seen:
    """What one watch knows by now."""
    recipe = watch.complete_recipe()
    return Seen(
        recipe=recipe,
        recipe_missing=None if recipe is not None else watch.recipe_missing,
        image_shape=watch.image_shape,
        classes=watch.classes,
        parameters=watch.parameters,
        loss=watch.loss,
        normalisation=None if watch.normalisation is None else watch.normalisation.how,
        torch=watch.called_model,
        own=watch.protections,
        own_start=watch.own_start,
        half=watch.half,
        uncompiled=watch.uncompiled,
        other_losses=sorted(watch.other_losses),
        other_norms=watch.other_norms,
    )


def together(parts: Sequence[Seen]) -> Seen:
    """What several processes saw: of each fact the first that is known."""
    facts = {
        name: next((value for part in parts if (value := getattr(part, name))), None)
        for name in Seen.model_fields
    }
    protections = [found for part in parts for found in part.own]
    facts |= {"own": list({found.name: found for found in protections}.values())}
    losses = {loss for part in parts for loss in (part.loss, *part.other_losses) if loss is not None}
    # Of three channels each, since one value may stand for all.
    recipes = [part.recipe for part in parts if part.recipe is not None]
    norms = [[value for each in (r.mean, r.std) for value in (each * 3)[:3]] for r in recipes]
    facts |= {"own_start": facts["own_start"] or [], "other_losses": sorted(losses - {facts["loss"]})}
    if facts["recipe"] is not None:
        facts["recipe_missing"] = None
    flags = {name: bool(facts[name]) for name in ("torch", "half", "uncompiled", "other_norms")}
    flags["other_norms"] = flags["other_norms"] or any(
        max(m) - min(m) > APART for m in zip(*norms, strict=True)
    )
    return Seen.model_validate(facts | flags)


def outcome_of(
    job: AppJob,
    seen: Seen,
    observer: AppObserver,
    recorder: BudgetRecorder,
    *,
    failure: AppFailure | None,
    notes: Sequence[str],
) -> AppOutcome:
    """All that is told of a federation, once its captures are on the disk.

    Args:
        job: the federation.
        seen: what was seen of the app.
        observer: of the grid.
        recorder: of the captures.
        failure: why it ended early.
        notes: one sentence each.
    """
    said = list(notes)
    recorder.drain()
    recorder.discard(Path(job.out) / "captures", Path(job.out) / "truth")
    problem = None if seen.recipe is None else _problem(seen.recipe, job)
    if problem is not None:
        seen = seen.model_copy(update={"recipe": None, "recipe_missing": problem})
    if seen.uncompiled:
        said.append("Module.compile() is left out, so that models can be watched: clients train uncompiled")
    if recorder.left_out:
        left = recorder.left_out
        said.append(
            f"{len(left)} captures from {left[0].stem} on were not written: they would take more than the "
            f"{job.disk:,} bytes of --disk"
        )
    if seen.own_start:
        said.append(
            f"clients begin to train with values of their own in {', '.join(seen.own_start[:5])}, not with "
            "those that they were sent (personalised layers): there the attack takes for one update what "
            "several rounds added up to"
        )
    own = [*observer.own, *(found for found in seen.own if found not in observer.own)]
    seen = seen.model_copy(update={"own": own})
    return AppOutcome(
        **dict(seen),
        failure=failure,
        rounds=observer.rounds,
        accuracy=observer.accuracy.rounds(),
        server_accuracy=observer.accuracy.server(),
        participation=dict(observer.participation),
        failures=observer.failures,
        truth_missing=observer.truth_missing,
        training=observer.training,
        secure=_secure(recorder),
        notes=said,
        numbers=sorted(observer.clients.values()),
    )


def _secure(recorder: BudgetRecorder) -> Secure | None:
    rounds = recorder.secure
    return Secure(how=dict(rounds.how), problems=dict(rounds.problems)) if rounds.seen else None


def failure_of(where: Where, error: BaseException, folder: Path) -> AppFailure:
    """Why a federation ended early; the whole traceback goes to the log.

    Args:
        where: what it was doing, see `Where`.
        error: what was raised.
        folder: where the app's modules lie.
    """
    traceback.print_exception(error)
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, SystemExit):
        text = f"the app called sys.exit({error.code!r})"
    elif where == "wait" or isinstance(error, ConfigError):  # in our words, for the user
        text = str(error)
    return AppFailure(where=where, text=text, traceback=own_traceback(error, folder))


def own_traceback(error: BaseException, folder: Path) -> str:
    """The traceback from the first line in the app's ``folder`` on, without paths of this machine.

    Where no line is the app's, as where its module is not found, the error alone.
    """
    here = str(folder)
    frames = traceback.extract_tb(error.__traceback__)
    first = next(
        (place for place, frame in enumerate(frames) if frame.filename.startswith(here)), len(frames)
    )
    lines = traceback.format_list(frames[first:]) + traceback.format_exception_only(error)
    return "".join(lines).replace(f"{here}/", "").rstrip()


def _problem(recipe: Recipe, job: AppJob) -> str | None:
    """Why the recipe does not work in another process; only a user's own can still be wrong."""
    if job.model is None:
        return None
    try:
        recipe.make(Path(job.code))
    except ConfigError as error:
        return str(error)
    return None
