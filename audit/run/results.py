"""What an attack made of one capture, as files: the result, or the best so far of an interrupted attack."""

from pathlib import Path

import torch

from fl_audit.core.errors import CaptureError
from fl_audit.core.files import read_json, read_tensors, write_json, write_tensors
from fl_audit.core.types import Reconstruction


def write_reconstruction(folder: Path, result: Reconstruction) -> None:
    """Write one reconstruction; ``result.json`` last."""
    if result.images is not None:
        write_tensors(folder / "reconstruction.safetensors", {"images": result.images})
    write_json(folder / "result.json", result.facts())
    write_json(folder / "timing.json", {"seconds": round(result.seconds, 3)})
    for leftover in ("partial.json", "partial.safetensors"):
        (folder / leftover).unlink(missing_ok=True)


def write_partial(folder: Path, result: Reconstruction) -> None:
    """Write the best so far of an interrupted attack; it is graded until a resumed run finishes the job."""
    if result.images is not None:
        write_tensors(folder / "partial.safetensors", {"images": result.images})
        write_json(folder / "partial.json", result.facts())


def read_reconstruction(folder: Path) -> Reconstruction:
    """Read one reconstruction, or the best so far where the attack was interrupted.

    Raises:
        CaptureError: it is missing or damaged.
    """
    partial = not (folder / "result.json").exists() and (folder / "partial.json").exists()
    path = folder / ("partial.json" if partial else "result.json")
    tensors = folder / ("partial.safetensors" if partial else "reconstruction.safetensors")
    facts = read_json(path)
    try:
        images = read_tensors(tensors)["images"] if facts["status"] == "done" else None
        objective = facts["objective"]
        return Reconstruction(
            status=facts["status"],
            images=images,
            labels=None if facts["labels"] is None else torch.tensor(facts["labels"], dtype=torch.int64),
            labels_inferred=facts["labels_inferred"],
            objective=float("nan") if objective is None else objective,
            iterations=facts["iterations"],
            notes=tuple(facts["notes"]),
            reason=facts["reason"],
            unattempted=facts.get("unattempted"),  # older runs do not say
        )
    except (KeyError, TypeError) as error:
        raise CaptureError(f"{path}: not an attack's result") from error
