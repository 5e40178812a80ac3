"""What clients' processes leave for the server's: files in the sealed truth folder, by Flower's node id.

Real images must not ride on messages, and processes share no memory. The server's side moves each truth to
its place as the update it belongs to arrives; the folder is gone when the federation is over.
"""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from flwr.serverapp import Grid
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from fl_audit.core.captures import read_truth, write_truth, write_unavailable
from fl_audit.core.errors import CaptureError
from fl_audit.core.files import read_model, read_tensors, write_json, write_tensors
from fl_audit.core.types import CaptureKey, GroundTruth
from fl_audit.federation.apps.job import AppJob, Seen
from fl_audit.federation.apps.outcome import together
from fl_audit.federation.apps.watch import HELD_OUT

ARRIVING = ".arriving"
"""Folder below ``RUN/truth``."""

MAX_TRACEBACK = 20_000
"""Characters that are kept of a traceback."""


class _Note(BaseModel):
    """A failure of the app at a client."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    traceback: str


class Spool:
    """One federation's files.

    Args:
        job: the federation.
    """

    def __init__(self, job: AppJob) -> None:
        self._root = Path(job.out) / "truth" / ARRIVING
        self._slug = job.slug
        self._folder = self._root / job.slug
        self._shape: tuple[int, ...] | None = None

    def begin(self) -> None:
        """Make the folder, empty."""
        self.end()
        self._folder.mkdir(parents=True)

    def end(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def put_truth(self, node: int, number: int, truth: GroundTruth | str) -> None:
        """What a client trained on in round ``number``, or why that is not known."""
        key = CaptureKey(self._slug, number, node)
        if isinstance(truth, str):
            write_unavailable(self._root, key, truth)
        else:
            write_truth(self._root, key, truth)

    def forget(self, node: int) -> None:
        """Remove what a client left in an earlier round."""
        for path in self._folder.glob(f"r*-c{node:02d}.*"):
            path.unlink(missing_ok=True)

    def take(self, grid: Grid, rounds: dict[int, int], timeout: float) -> dict[int, GroundTruth | str]:
        """As `fl_audit.federation.truth.take`: by node the truth of its round, moved out of the folder."""
        del grid, timeout
        return {node: self._take(node, number) for node, number in rounds.items()}

    def put_seen(self, node: int, seen: Seen) -> None:
        """What a client's process knows of the app by now, beside what those before it knew.

        A SuperNode starts a process for each message: one that evaluates knows nothing of the training.
        """
        path = self._folder / f"seen-{node}.json"
        before = [_read_seen(path)] if path.is_file() else []
        write_json(path, together([*before, seen]).model_dump(mode="json"))

    def seen(self) -> list[Seen]:
        """What the clients' processes know, by node."""
        return [_read_seen(path) for path in sorted(self._folder.glob("seen-*.json"))]

    def put_held_out(self, node: int, images: Tensor, labels: Tensor) -> None:
        """Images ``(N, C, H, W)`` in [0, 1] that a client evaluated on, and labels ``(N,)``; kept once."""
        path = self._folder / f"held-{node}.safetensors"
        if not path.exists():
            write_tensors(path, {"images": images, "labels": labels})

    def held_out(self) -> Mapping[str, Tensor] | None:
        """Those of all clients together; of images of different shapes, those like the first."""
        pool: dict[bytes, tuple[Tensor, Tensor]] = {}
        for path in sorted(self._folder.glob("held-*.safetensors")):
            held = read_tensors(path)
            for image, label in zip(held["images"], held["labels"], strict=True):
                # One process serves several clients, and keeps for each what it saw of all.
                pool.setdefault(image.numpy().tobytes(), (image, label))
        found = [pair for pair in pool.values() if pair[0].shape == next(iter(pool.values()))[0].shape]
        if not found:
            return None
        images, labels = zip(*found[:HELD_OUT], strict=True)
        return {"images": torch.stack(images), "labels": torch.stack(labels)}

    def put_frozen(self, node: int, values: Mapping[str, Tensor]) -> None:
        """Values of the model that do not travel, as a client has them; kept once."""
        path = self._folder / f"frozen-{node}.safetensors"
        if not path.exists():
            write_tensors(path, dict(values))

    def frozen(self) -> Mapping[str, Tensor] | None:
        """Those of the first client that left some."""
        found = sorted(self._folder.glob("frozen-*.safetensors"))
        return read_tensors(found[0]) if found else None

    def put_error(self, node: int, traceback: str) -> None:
        """The app's own traceback of a failure at a client; the latest is kept."""
        write_json(self._folder / f"error-{node}.json", {"traceback": traceback[-MAX_TRACEBACK:]})

    def errors(self) -> Iterator[tuple[int, str]]:
        """Node and traceback."""
        for path in sorted(self._folder.glob("error-*.json")):
            yield int(path.stem.removeprefix("error-")), read_model(path, _Note, "a failure").traceback

    def _take(self, node: int, number: int) -> GroundTruth | str:
        found = sorted(self._folder.glob(f"r*-c{node:02d}.*"))
        if not found:
            return "the client recorded none"
        rounds = [int(path.stem.partition("-")[0].removeprefix("r")) for path in found]
        # A client that was late in an earlier round may have left that one's after this began.
        came = number if number in rounds else max(rounds)
        try:
            truth = read_truth(self._root, CaptureKey(self._slug, came, node))
        except CaptureError as error:
            return str(error)
        finally:
            self.forget(node)
        if came not in (number, number - 1, 0):  # 0: the message did not say; one less: counted from 0
            return f"the client recorded that of round {came} instead"
        shape = tuple(truth.images.shape[1:])
        self._shape = self._shape or shape
        if shape != self._shape:
            return f"the images have shape {shape}, those of earlier clients {self._shape}"
        return truth


def _read_seen(path: Path) -> Seen:
    return read_model(path, Seen, "what a client saw")
