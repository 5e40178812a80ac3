"""breaching in its own process and environment, as seen from ours: `_breaching_worker.py`'s other end."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

WORKER = Path(__file__).with_name("_breaching_worker.py")


@dataclass(frozen=True)
class Built:
    """An architecture of breaching's, and the file with its weights.

    Attributes:
        architecture: breaching's name.
        weights: npz of its state dict, in order.
        mean: breaching's normalisation of each channel.
        std: the same.
        parameters: how many parameters it has.
    """

    architecture: str
    weights: Path
    mean: tuple[float, ...]
    std: tuple[float, ...]
    parameters: int


@dataclass(frozen=True)
class Attacked:
    """One attack by breaching.

    Attributes:
        images: what it returns, float32 ``(N, C, H, W)`` in [0, 1].
        seconds: wall time of its ``reconstruct``.
        iterations: iterations that it took.
        iterates: ``(iteration, seconds, images)``, now and then.
        converged: whether its final objective is finite; where not, it returns a grey image.
    """

    images: Tensor
    seconds: float
    iterations: int
    iterates: tuple[tuple[int, float, Tensor], ...]
    converged: bool


class Breaching:
    """A worker process; one request at a time, idle in between.

    Args:
        python: the Python of an environment with breaching.
        folder: where arrays are exchanged.
        threads: threads that torch computes with there.
        overrides: further settings of breaching's in hydra's notation, e.g. ``attack.optim.warmup=0``.
        log: what the worker prints.
        device: where its attacks run.
    """

    def __init__(
        self,
        python: str,
        folder: Path,
        *,
        threads: int,
        overrides: tuple[str, ...],
        log: Path,
        device: str = "cpu",
    ) -> None:
        self._folder = folder
        self._overrides = overrides
        self._log = log
        self._device = device
        self.versions: dict[str, str] = {}
        # Not our import path: breaching must be that environment's own.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [python, "-u", str(WORKER), str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment | {"OMP_NUM_THREADS": str(threads)},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()

    def build(self, architecture: str, seed: int) -> Built:
        """Draw the weights of an architecture of breaching's from ``seed``."""
        weights = self._folder / f"{architecture}-{seed}.npz"
        answer = self._ask("build", architecture=architecture, seed=seed, weights=str(weights))
        self.versions = answer["versions"]
        return Built(architecture, weights, tuple(answer["mean"]), tuple(answer["std"]), answer["parameters"])

    def forward(self, built: Built, images: Tensor, labels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits of images ``(N, C, H, W)`` in [0, 1], and the gradient of the mean cross-entropy."""
        given, out = self._folder / "images.npz", self._folder / "logits.npz"
        np.savez(given, images.numpy())
        self._ask(
            "forward",
            architecture=built.architecture,
            weights=str(built.weights),
            images=str(given),
            labels=labels.tolist(),
            out=str(out),
        )
        logits, *gradient = read_arrays(out)
        return logits, gradient

    def attack(
        self,
        built: Built,
        preset: tuple[str, ...],
        update: list[Tensor],
        labels: Tensor,
        *,
        local: dict[str, Any] | None,
        iterations: int,
        seed: int,
        every: int,
    ) -> Attacked:
        """Attack one update.

        Args:
            built: the model.
            preset: breaching's attack as settings, e.g. ``("attack=invertinggradients",)``.
            update: the gradient (one step) or ``received - sent`` (several), in the parameters' order.
            labels: int64 ``(N,)``, given to it.
            local: None for one step; else its ``local_hyperparams``: lr, steps, data_per_step, labels.
            iterations: its ``max_iterations``, to which its schedule refers.
            seed: of its start.
            every: iterations between iterates that are kept.
        """
        given, out = self._folder / "update.npz", self._folder / "attacked.npz"
        np.savez(given, *[part.numpy() for part in update])
        answer = self._ask(
            "attack",
            architecture=built.architecture,
            weights=str(built.weights),
            overrides=[*preset, f"attack.optim.max_iterations={iterations}", *self._overrides],
            update=str(given),
            labels=labels.tolist(),
            local=local,
            seed=seed,
            every=every,
            device=self._device,
            out=str(out),
        )
        chosen, iterates = read_arrays(out)
        kept = tuple(
            (iteration, at, images) for (iteration, at), images in zip(answer["trace"], iterates, strict=True)
        )
        return Attacked(chosen, answer["seconds"], answer["iterations"], kept, answer["converged"])

    def _ask(self, operation: str, **values: Any) -> dict[str, Any]:
        requests, answers = self._process.stdin, self._process.stdout
        if requests is None or answers is None:
            raise RuntimeError("the worker has no pipes")
        requests.write(json.dumps({"op": operation, **values}) + "\n")
        requests.flush()
        line = answers.readline()
        if not line:
            raise SystemExit(f"breaching's process ended; its last words:\n{self._log.read_text()[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise SystemExit(f"breaching failed in {operation!r}:\n{answer['error']}")
        return answer


def read_arrays(path: Path) -> list[Tensor]:
    """The arrays of an npz file, in order."""
    with np.load(path, allow_pickle=False) as file:
        return [torch.from_numpy(file[name]) for name in file.files]
