"""What `against_breaching.py` compares: the cases, and the settings of both sides in each."""

from dataclasses import dataclass, replace
from typing import Literal

Labels = Literal["given", "inferred"]

INVERTING: tuple[str, ...] = ("attack=invertinggradients",)
DEEP_LEAKAGE: tuple[str, ...] = ("attack=deepleakage", "attack.attack_type=optimization")


@dataclass(frozen=True)
class Case:
    """One row group of the table.

    Attributes:
        model: our name of the architecture.
        architecture: breaching's name of it.
        preset: breaching's attack, as settings in hydra's notation.
        ours: our attacks' specs. ``{iterations}`` in one becomes the iterations that fill ``seconds``,
            ``{seconds}`` the seconds.
        batch: images in one local step.
        steps: local steps.
        updates: how many updates are attacked.
        iterations: breaching's ``max_iterations``; None: as many as fill ``seconds``.
        seconds: wall time of each attack, where that is what both sides get.
        labels: what our side works with, one row each; breaching always gets the labels, and those of each
            local step too.
        federated: whether the model was trained in our federation and the update captured there, instead
            of an update at random weights.
    """

    model: str
    architecture: str
    preset: tuple[str, ...]
    ours: tuple[str, ...]
    batch: int = 1
    steps: int = 1
    updates: int = 5
    iterations: int | None = None
    seconds: float = 60.0
    labels: tuple[Labels, ...] = ("inferred",)
    federated: bool = False


_TIMED = ("inverting-gradients:iterations={iterations}",)

CASES: dict[str, Case] = {
    "convnet-1": Case(
        "convnet",
        "ConvNet",
        INVERTING,
        tuple(f"inverting-gradients:iterations={count}" for count in (40, 60, 100, 200)),
        iterations=1000,
    ),
    "convnet-4": Case("convnet", "ConvNet", INVERTING, _TIMED, batch=4, updates=2),
    # 200 of its L-BFGS steps are 4,000 evaluations, about 10 s; its preset of 1,200 runs on the spot then.
    "lenet-1": Case("lenet", "lenet_zhu", DEEP_LEAKAGE, ("dlg",), iterations=200),
    "federation-8": Case(
        "convnet",
        "ConvNet",
        INVERTING,
        _TIMED,
        batch=8,
        updates=2,
        seconds=120.0,
        labels=("given", "inferred"),
        federated=True,
    ),
    # Half of breaching's first 100 iterations warm its step size up: it needs time here, 0.3 s each.
    "fedavg-4x4": Case(
        "convnet",
        "ConvNet",
        INVERTING,
        _TIMED,
        batch=4,
        steps=4,
        updates=1,
        seconds=240.0,
        labels=("given", "inferred"),
    ),
}


def smoke(case: Case) -> Case:
    """The same case, as short as it can be: it proves the plumbing, and its figures mean nothing."""
    return replace(
        case,
        ours=(
            "dlg:iterations=2,restarts=1" if case.model == "lenet" else "inverting-gradients:iterations=3",
        ),
        updates=1,
        iterations=None if case.iterations is None else 4,
        seconds=4.0,
    )
