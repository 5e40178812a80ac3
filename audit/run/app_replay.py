"""Whether what was seen of an app's training explains its updates: the local training, replayed.

An audit rests on what was found out: model, normalisation, loss, optimiser, steps. Each may be right and yet
not all, e.g. where gradients are changed by hand, a further term is in the loss, or a gradient accumulates
in a way that was not seen. So the auditor, who alone holds the truth, computes from it the update that these
would give, with the very simulation that the attacks run, and holds it against the update that came. What
differs is no error of the attack and shows in no control, which trains by what was found out.
"""

import copy
import math
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fl_audit.attacks._arrays import Named, read_arrays
from fl_audit.attacks._client_model import set_mode
from fl_audit.attacks._failed import AttackFailed
from fl_audit.attacks._granted import proximal_weight, simulated
from fl_audit.attacks.losses import Loss, find_loss
from fl_audit.attacks.unroll import Unrolling, unroll
from fl_audit.core.captures import list_captures, read_truth, read_update
from fl_audit.core.errors import AuditError
from fl_audit.core.knowledge import Sends
from fl_audit.core.seeding import torch_generator
from fl_audit.core.types import EVERYONE, CaptureKey, GroundTruth, TrainingDetails, Update
from fl_audit.run.config import RunConfig
from fl_audit.run.folder import RunFolder
from fl_audit.run.grants import read_knowledge
from fl_audit.run.weights import own_code

CLOSE = 0.2
"""Distance of two updates, relative to the length of the one that came, from which they are not the same.

Rounding stays far below over some hundred steps; mixed precision stays below it over a few.
"""

ROUNDING = 1e-6
"""Relative change of the images that is no more than rounding."""

HALF = 4e-3
"""The same where clients compute in half precision: bfloat16 rounds by that."""

CHANCE = 3.0
"""How many times what rounding does a distance must be to be of another cause."""

SECONDS = 60.0
"""Time for all replays of a run."""


@dataclass(frozen=True)
class Replay:
    """One update beside its replay.

    Attributes:
        far: length of their difference, relative to that of the update; 0: equal.
        scale: the factor on the replay that comes closest to the update.
        far_scaled: the distance that is left under that factor.
        spread: how far the replay moves, on the same scale, where images change by rounding; a distance of
            that size says nothing: batch norm over two values, for one, makes anything of rounding.
        aside: what the update holds besides the model, a sentence for each kind.
    """

    far: float
    scale: float
    far_scaled: float
    spread: float = 0.0
    aside: tuple[str, ...] = ()

    @property
    def differs(self) -> bool:
        """Whether the update came of another training than was replayed."""
        return self.far > max(CLOSE, CHANCE * self.spread)


class _TooLongError(Exception):
    """The time for replays is over."""


@dataclass(frozen=True)
class Checked:
    """What replays say of a run.

    Attributes:
        words: a sentence on what was checked and how it came out.
        doubt: what the audit does not know of the training, without its full stop; empty: nothing known.
    """

    words: str
    doubt: str = ""


def check_training(folder: RunFolder, config: RunConfig, slug: str, *, half: bool) -> Checked:
    """Replay the update of the lowest client of each attacked round, until one differs.

    ``half``: whether clients compute in half precision.
    """
    stop = time.monotonic() + SECONDS
    checked = Checked("")  # where nothing is attacked there is nothing to check
    rounds: set[int] = set()
    for key in sorted(list_captures(folder.captures, slug), key=lambda key: (key.round, key.client)):
        if key.client == EVERYONE or key.round in rounds or not folder.knowledge_file(key).is_file():
            continue
        rounds.add(key.round)
        try:
            checked = _check(folder, config, key, stop, HALF if half else ROUNDING)
        except (AuditError, AttackFailed, RuntimeError, ValueError, IndexError) as error:
            # What is wrong here fails in the attack as well.
            checked = _unchecked(folder.relative(str(error).split("\n", 1)[0]))
        except _TooLongError:
            return _unchecked(f"replaying it takes more than {SECONDS:g} seconds")
        if checked.doubt:
            return checked
    return checked


def _unchecked(why: str) -> Checked:
    return Checked(f"Whether the training that was found explains the updates could not be checked: {why}.")


def _check(folder: RunFolder, config: RunConfig, key: CaptureKey, stop: float, rounding: float) -> Checked:
    truth = read_truth(folder.truth, key)
    with own_code(folder.root, config.threat.loss):
        loss = find_loss(config.threat.loss, "replay")
    knowledge, update = read_knowledge(folder.knowledge_file(key), key), read_update(folder.captures, key)
    if knowledge.model is None:
        return _unchecked("the attacker is not told the model")
    notes: list[str] = []
    training = simulated(truth.training, notes)
    if training is None:
        return Checked("", notes[0])
    sends = knowledge.sends
    found = replay(update, knowledge.model, truth, training, loss, sends=sends, stop=stop, rounding=rounding)
    aside = f"what clients send besides the model is not attacked: {'; '.join(found.aside)}"
    doubt = aside if found.aside else ""
    if truth.training.train_mode and _drops(knowledge.model):
        return replace(_unchecked("the model drops values by chance"), doubt=doubt)
    if found.differs:
        return Checked("", words(found, key))
    if found.far > CLOSE:
        why = "rounding alone moves what this training gives"
        return replace(_unchecked(why), doubt=doubt)
    told = f"the update of client {key.client} in round {key.round} differs by {found.far:.2%} of its length"
    return Checked(f"The training that was found explains the updates: replayed, {told}.", doubt)


def words(found: Replay, key: CaptureKey) -> str:
    """What a replay that is not close says, for a reader."""
    text = (
        f"client {key.client}, in round {key.round}, trained in a way that was not found out in full: what "
        f"was found gives an update that differs by {found.far:.0%} of its length from the one that it sent"
    )
    if found.far_scaled <= CLOSE and found.scale > 0:
        return (
            f"{text}, and by {found.far_scaled:.0%} once it is multiplied by {found.scale:.3g}, as clipped "
            "gradients or a loss that is multiplied would have it"
        )
    return (
        f"{text}. Gradients may be clipped or noised, the loss may have a further term, or the update may be "
        "changed before it is sent; or values are dropped by a function"
    )


def replay(
    update: Update,
    model: nn.Module,
    truth: GroundTruth,
    training: TrainingDetails,
    loss: Loss,
    *,
    sends: Sends | None = None,
    stop: float = math.inf,
    rounding: float = ROUNDING,
) -> Replay:
    """Train on the truth as attacks simulate it, and compare.

    Args:
        update: what the server saw.
        model: the architecture; it is not changed.
        truth: the images and labels of each step.
        training: the optimiser, as `fl_audit.attacks._granted.simulated` gives it.
        loss: from logits and labels.
        sends: what clients send; None: told from the magnitudes.
        stop: time (`time.monotonic`) from which on no step is begun.
        rounding: relative change of the images that is no more than rounding.

    Raises:
        ConfigError: the arrays are not the model's.
        AttackFailed: the update is none.
    """
    notes: list[str] = []
    arrays = read_arrays(update, model, sends, notes)
    client = copy.deepcopy(model)
    with torch.no_grad():
        state = client.state_dict()
        for name, value in arrays.sent.items():
            state[name].copy_(value)
    set_mode(client, train=truth.training.train_mode)
    values = {name: value.detach() for name, value in client.named_parameters()}
    trained = [name for name, p in client.named_parameters() if p.requires_grad and name in arrays.change]
    rest = {name: value for name, value in values.items() if name not in trained} | dict(
        client.named_buffers()
    )

    def loss_at(parameters: Named, images: Tensor, labels: Tensor) -> Tensor:
        if time.monotonic() > stop:
            raise _TooLongError
        return loss(functional_call(client, {**rest, **parameters}, (images,)), labels)

    order = torch.argsort(truth.steps, stable=True)
    sizes = tuple(int(size) for size in torch.unique(truth.steps, return_counts=True)[1])
    plan = Unrolling(
        start={name: values[name] for name in trained},
        loss=loss_at,
        details=training,
        sizes=sizes,
        proximal=proximal_weight(update, []) if len(sizes) > 1 else 0.0,
        checkpointed=True,
    )
    images, labels = truth.images[order], truth.labels[order]
    came = _flat({name: -arrays.change[name] for name in trained})
    with torch.no_grad():
        ours = _flat(unroll(plan, images, labels))
        found = _compared(came, ours)
        if found.far > CLOSE:
            noise = torch.randn(images.shape, generator=torch_generator(0, "replay"))
            again = _flat(unroll(plan, images * (1 + rounding * noise), labels))
            found = replace(found, spread=float((again - ours).norm() / came.norm()))
    return replace(found, aside=tuple(note for note in notes if note.startswith("left out, since they")))


def _flat(values: Named) -> Tensor:
    return torch.cat([value.flatten().double() for value in values.values()])


def _compared(theirs: Tensor, mine: Tensor) -> Replay:
    size, own = float(theirs.norm()), float(mine.square().sum())
    scale = float(mine @ theirs) / own if own else 0.0
    if not size:
        return Replay(math.inf, scale, math.inf)
    return Replay(float((mine - theirs).norm()) / size, scale, float((scale * mine - theirs).norm()) / size)


def _drops(model: nn.Module) -> bool:
    """Whether it drops values by chance: what came of that cannot be replayed."""
    dropout = nn.modules.dropout._DropoutNd
    return any(isinstance(module, dropout) and module.p > 0 for module in model.modules())
