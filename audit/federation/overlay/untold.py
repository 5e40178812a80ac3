"""A server-only audit: what no client shows, the operator must say; what he says is checked."""

from pathlib import Path

import torch
from torch import nn

from fl_audit.core.errors import ConfigError
from fl_audit.federation.apps.job import AppJob, Seen
from fl_audit.federation.apps.normalise import told_normalisation
from fl_audit.models.app_model import Recipe

UNWATCHED = (
    "the clients ran the app's own code (--server-only), so that nobody saw what they trained on: ground "
    "truth must come from the operator, --truth module:function"
)


def stated(job: AppJob, truth_shape: tuple[int, int, int] | None, seen: Seen) -> Seen:
    """What follows from the options of a server-only audit.

    The model's classes are those of its output for one image; whether it takes images flat is tried.

    Args:
        job: what the user said.
        truth_shape: ``(C, H, W)`` of the operator's images.
        seen: what the server's own process saw.
    """
    shape = job.image_shape or truth_shape
    normalisation = told_normalisation(job.input_range or (0.0, 1.0))
    told = seen.model_copy(update={"recipe": None, "recipe_missing": None, "image_shape": shape})
    if job.input_range is not None:
        told = told.model_copy(update={"normalisation": normalisation.how})
    if job.model is None or shape is None:
        return told
    mean, std = normalisation.norm
    recipe = Recipe(target=job.model, mean=list(mean), std=list(std))
    try:
        model = recipe.make(Path(job.code))
        flat, classes = _output(model, shape)
    except ConfigError as error:
        return told.model_copy(update={"recipe_missing": str(error)})
    return told.model_copy(
        update={
            "recipe": recipe.model_copy(update={"flat": flat}),
            "classes": classes,
            "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "torch": True,
        }
    )


def untold(job: AppJob, seen: Seen) -> list[str]:
    """The options without which an update of unseen clients cannot be attacked."""
    needed = {
        "--model module:function": job.model,
        "--image-shape C,H,W (or --truth)": seen.image_shape,
        "--input-range LOW,HIGH": job.input_range,
    }
    return [option for option, value in needed.items() if value is None]


def _output(model: nn.Module, shape: tuple[int, int, int]) -> tuple[bool, int | None]:
    """Whether the model takes images flat, and how many logits it gives; None: it gives no table."""
    problem: Exception | None = None
    for flat in (False, True):
        image = torch.zeros(1, *shape)
        try:
            with torch.no_grad():
                output = model.eval()(image.flatten(1) if flat else image)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            problem = problem or error
            continue
        table = isinstance(output, torch.Tensor) and output.ndim == 2
        return flat, output.shape[1] if table else None
    raise ConfigError(f"the model does not take images of shape {shape}: {problem}")
