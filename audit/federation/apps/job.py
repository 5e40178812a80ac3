"""What the process that runs an app is told, and what it tells: JSON files, checked on both sides."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from fl_audit.core.types import TrainingDetails
from fl_audit.models.app_model import Recipe

Value = bool | int | float | str

Engine = Literal["local", "ray", "flwr"]
"""What runs an app: our own grid in one process, Flower's simulation on Ray, or ``flwr run``."""

OUTCOME = "outcome.json"
"""What the process saw, an `AppOutcome`."""
HELD_OUT = "held-out.safetensors"
"""Images that models were evaluated on, and their labels."""


FROZEN = "frozen.safetensors"
"""Values of the model that nobody trains and that its recipe does not give; no file: there are none."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AppJob(_Model):
    """One federation of an app under one defense.

    Attributes:
        folder: the working copy of the app, the process's current folder.
        code: the copy that models are rebuilt from.
        server: ``module:attribute`` of its ServerApp.
        client: ``module:attribute`` of its ClientApp.
        config: its run config.
        clients: supernodes.
        seed: seeds the global generators around every call of the app.
        defense: what happens to each update before it leaves.
        slug: folder name of the defense.
        out: the run folder.
        rounds: rounds to capture; None: all.
        attacked: how many clients to capture, lowest ids; None: all.
        timeout: seconds that a client may take for one message.
        disk: bytes that captures may take.
        input_range: what 0 and 1 of an image are at the model's input, where the user says so.
        image_shape: ``(C, H, W)`` of images that the model takes flat, where the user says so.
        model: ``module:function`` of no arguments that builds the model, where the user says so.
        truth: ``module:function(client, round)`` for (images, labels), where the user says so.
        engine: what runs it.
        deployment: engine flwr: start a SuperLink and as many SuperNodes as ``clients``, not a simulation.
        superlink: engine flwr: the user's own SuperLink, as ``--superlink`` names it.
        server_only: engine flwr: SuperNodes run the app's own ClientApp, unwatched.
    """

    folder: str
    code: str
    server: str
    client: str
    config: dict[str, Value]
    clients: int
    seed: int
    defense: str
    slug: str
    out: str
    rounds: list[int] | None
    attacked: int | None
    timeout: float
    disk: int
    input_range: tuple[float, ...] | None = None
    image_shape: tuple[int, int, int] | None = None
    model: str | None = None
    truth: str | None = None
    engine: Engine = "local"
    deployment: bool = False
    superlink: str | None = None
    server_only: bool = False


class Problem(_Model):
    """Something that went wrong with one client in one round."""

    round: int
    client: int
    reason: str


class ClientAccuracy(_Model):
    """The accuracy that a client reported of the global model on its own test data.

    Attributes:
        key: of the metric, as the app calls it.
        value: as it was told: a share, or in percent.
        examples: how many it says it has; None: it says nothing.
    """

    key: str
    value: float
    examples: int | None = None


class RoundAccuracy(_Model):
    """What the clients reported in one round, by client."""

    round: int
    clients: dict[int, ClientAccuracy] = {}


class ServerAccuracy(_Model):
    """What the server's own evaluation of the global model gave.

    Attributes:
        key: of the metric, as the app calls it.
        rounds: its value by round; 0: before the first.
    """

    key: str
    rounds: dict[int, float]


Where = Literal["import", "server", "wait", "process", "flower"]
"""What an app was doing when it ended before its time; the last two: in its process, or by Flower."""


class AppFailure(_Model):
    """How the app ended before its time."""

    where: Where
    text: str
    traceback: str = ""


class Protection(_Model):
    """Something by which an app itself protects its clients' updates.

    Attributes:
        name: what it is called.
        kind: where it was found.
        detail: what it does, and its settings, in words.
    """

    name: str
    kind: Literal["mod", "strategy", "training"]
    detail: str


class Secure(_Model):
    """How a federation that aggregates securely (SecAgg+) was captured: a round as one update, their mean.

    Attributes:
        how: by round, how the mean was had: the sum of the masked vectors without its masks, or the global
            model that came after.
        problems: by round, why it was not had by taking masks off.
    """

    how: dict[int, Literal["unmasked", "next model"]] = {}
    problems: dict[int, str] = {}


class Seen(_Model):
    """What one process saw of the app through PyTorch's hooks.

    Attributes:
        recipe: how to build the model; None if that was not found out.
        recipe_missing: why there is none.
        image_shape: ``(C, H, W)`` of the images that clients trained on; None: no images were seen.
        classes: number of logits.
        parameters: trainable values of the model.
        loss: ``cross-entropy``, or what the clients used instead.
        normalisation: how it was found out what 0 and 1 of an image are, in words.
        torch: whether any model of PyTorch was called.
        own: what the app does to protect updates by itself, as far as it was found.
        own_start: parameters that clients begin to train with values of their own.
        half: whether models computed in half precision while they were trained.
        uncompiled: whether a model was to be compiled in place and was not.
        other_losses: what other clients, or the same later, trained on in place of ``loss``.
        other_norms: whether clients feed their models images by several normalisations.
    """

    recipe: Recipe | None = None
    recipe_missing: str | None = None
    image_shape: tuple[int, int, int] | None = None
    classes: int | None = None
    parameters: int | None = None
    loss: str | None = None
    normalisation: str | None = None
    torch: bool = False
    own: list[Protection] = []
    own_start: list[str] = []
    half: bool = False
    uncompiled: bool = False
    other_losses: list[str] = []
    other_norms: bool = False

    @property
    def differing(self) -> list[str]:
        """In what clients differ that attacks take for the same, a sentence each without its full stop."""
        found = []
        if self.other_losses:
            others = ", ".join(self.other_losses[:3])
            found.append(f"some clients train on {others}, and all are attacked as if on {self.loss}")
        if self.other_norms:
            found.append("clients normalise images differently, and all are attacked as one of them does it")
        return found


class AppOutcome(Seen):
    """What all processes of a federation saw.

    Attributes:
        failure: why the app stopped early; None if it ran to its end.
        rounds: rounds in which clients trained.
        accuracy: what clients reported, by round.
        server_accuracy: of the server's own evaluation; None if that gave none.
        participation: how many times each client's update left it.
        failures: clients whose update was of no use.
        truth_missing: captures without truth.
        training: how the first client trained.
        secure: how it went, where the app aggregates securely; None where it does not.
        notes: one sentence each.
        clients: how many took part, where that is known only of the running federation.
        tracebacks: by client, the app's own traceback of the latest failure, where it does not show in the
            process's log.
        untold: options that must say what was not seen, where clients are not watched.
        numbers: of the clients; empty where that is not known.
    """

    failure: AppFailure | None = None
    rounds: list[int] = []
    accuracy: list[RoundAccuracy] = []
    server_accuracy: ServerAccuracy | None = None
    participation: dict[int, int] = {}
    failures: list[Problem] = []
    truth_missing: list[Problem] = []
    training: TrainingDetails | None = None
    secure: Secure | None = None
    notes: list[str] = []
    clients: int | None = None
    tracebacks: dict[int, str] = {}
    untold: list[str] = []
    numbers: list[int] = []

    @property
    def died(self) -> bool:
        """Whether the process that ran the server ended before it could tell all that it had seen."""
        return self.failure is not None and self.failure.where in ("process", "flower")
