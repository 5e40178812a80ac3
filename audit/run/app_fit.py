"""Whether the captures of an app can be attacked; if not, what is missing, and the option that gives it."""

import re

from fl_audit.core.captures import list_captures, read_update
from fl_audit.core.errors import AuditError
from fl_audit.core.losses import CROSS_ENTROPY, known_loss
from fl_audit.core.seeding import seeded_globals
from fl_audit.federation.apps import AppOutcome
from fl_audit.federation.apps.job import Problem
from fl_audit.federation.apps.loss import NO_CLASSES
from fl_audit.run.config import RunConfig
from fl_audit.run.folder import RunFolder
from fl_audit.run.weights import model_spec
from fl_audit.strategies._content import short

NOT_IMAGES = "not a gradient of an image model"

_OTHER_ARRAYS = re.compile(r"arrays differ from what was sent|array .* has shape .*, expected")
"""What `Update.problem` says of arrays that are not those sent, as boosted trees are not."""


def without_arrays(folder: RunFolder, slug: str) -> str | None:
    """Why the captures cannot be attacked where clients send no arrays at all, but something else."""
    scalars: dict[str, object] = {}
    for key in list_captures(folder.captures, slug):
        update = read_update(folder.captures, key)
        if update.received:
            return None
        scalars |= {**update.config, **update.metrics} if update.error is None else {}
    packed = [f"{short(name, 60)} ({text})" for name, text in scalars.items() if str(text).endswith(" bytes")]
    if not packed:
        return None
    return (
        f"{NOT_IMAGES}, as far as was seen: the clients send back no array in an ArrayRecord, but as bytes "
        f"in another record: {', '.join(packed[:3])}. Whoever knows the app can unpack them; fl-audit reads "
        "arrays alone: send the model as ArrayRecord(model.state_dict()) to have it attacked"
    )


def attackable(config: RunConfig, outcome: AppOutcome, *, watched: bool) -> str | None:
    """Why the captures cannot be attacked; None if they can. ``watched``: whether clients are."""
    if outcome.untold:
        return (
            "the clients ran the app's own code (--server-only), so that what their model is fed was not "
            f"seen. Say it: {', '.join(outcome.untold)}"
        )
    if outcome.image_shape is None:
        reasons = sorted({problem.reason for problem in outcome.truth_missing})
        why = "; ".join(reasons[:3]) or "no training was captured"
        if not outcome.torch:
            why = "no model of PyTorch was called in this app"
            if outcome.died:
                return "the process that ran the app ended before it could tell what it had seen"
        return (
            why if NOT_IMAGES in why or "--input-range" in why else f"{NOT_IMAGES}, as far as was seen: {why}"
        )
    told = config.threat.loss != CROSS_ENTROPY
    if not told and outcome.loss is not None and outcome.loss.endswith(NO_CLASSES):
        return (
            f"not a gradient of a classifier: the clients' loss is {outcome.loss} (regression, segmentation, "
            "several labels at once and the like), and the attacks simulate one class for each image. That "
            "is no proof of safety: such updates hold their images no less"
        )
    if outcome.classes is None:
        return "the model's output is no table of logits (N, classes): its loss is not that of a classifier"
    unknown = outcome.loss is not None and known_loss(outcome.loss) is None
    if unknown and not told:
        return (
            f"the clients' loss is {outcome.loss}. Give it as a function of logits and labels of the app: "
            "--loss module:function"
        )
    if watched and outcome.loss is None and not told:
        return (
            "which loss the clients train on was not seen: none of PyTorch's was called on the model's output"
            " with one class for each image. Give it as a function of logits and labels of the app: --loss "
            "module:function"
        )
    if outcome.recipe is None:
        return (
            f"the model cannot be built again outside the app: {outcome.recipe_missing}. Give a function of "
            "no arguments that builds it: --model module:function"
        )
    return None


def unfit(folder: RunFolder, config: RunConfig, outcome: AppOutcome) -> str | None:
    """Why the model that was found cannot be attacked; None if it can. It is built as for an attack."""
    if outcome.image_shape is None or outcome.classes is None:
        return None  # `attackable` says why
    try:
        with seeded_globals(0, "architecture"):
            model_spec(config.model, folder.root).build(outcome.image_shape, outcome.classes)
    except AuditError as error:
        return str(error)
    return None


def failures_of(outcome: AppOutcome) -> list[Problem]:
    """Clients whose update was of no use; without an image model, arrays of another size are no failure."""
    if outcome.image_shape is not None:
        return outcome.failures
    return [found for found in outcome.failures if not _OTHER_ARRAYS.match(found.reason)]
