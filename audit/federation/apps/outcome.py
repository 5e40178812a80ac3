"""What is told at the end of an app's federation, put together from watch, observer and recorder."""

import traceback
from collections.abc import Sequence
from pathlib import Path

from fl_audit.core.errors import ConfigError
from fl_audit.federation.apps.job import AppFailure, AppJob, AppOutcome, Seen
from fl_audit.federation.apps.observe import AppObserver, BudgetRecorder
from fl_audit.federation.apps.watch import Watch
from fl_audit.models.app_model import Recipe


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
    )


def together(parts: Sequence[Seen]) -> Seen:
    """What several processes saw: of each fact the first that is known."""
    facts = {
        name: next((value for part in parts if (value := getattr(part, name)) not in (None, False)), None)
        for name in Seen.model_fields
    }
    if facts["recipe"] is not None:
        facts["recipe_missing"] = None
    return Seen.model_validate(facts | {"torch": bool(facts["torch"])})


def outcome_of(
    job: AppJob,
    seen: Seen,
    observer: AppObserver,
    recorder: BudgetRecorder,
    *,
    failure: AppFailure | None,
    notes: Sequence[str],
) -> AppOutcome:
    """All that is told of a federation."""
    said = list(notes)
    problem = None if seen.recipe is None else _problem(seen.recipe, job)
    if problem is not None:
        seen = seen.model_copy(update={"recipe": None, "recipe_missing": problem})
    if recorder.left_out:
        left = recorder.left_out
        said.append(
            f"{len(left)} captures from round {left[0].round}, client {left[0].client} on were not "
            f"written: they would take more than the {job.disk:,} bytes of --disk"
        )
    return AppOutcome(
        **dict(seen),
        failure=failure,
        rounds=observer.rounds,
        accuracy=observer.accuracy,
        participation=dict(observer.participation),
        failures=observer.failures,
        truth_missing=observer.truth_missing,
        training=observer.training,
        secure=recorder.secure,
        notes=said,
    )


def own_traceback(error: BaseException, folder: Path) -> str:
    """The traceback from the first line in the app's ``folder`` on, without paths of this machine."""
    here = str(folder)
    frames = traceback.extract_tb(error.__traceback__)
    first = next((place for place, frame in enumerate(frames) if frame.filename.startswith(here)), 0)
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
