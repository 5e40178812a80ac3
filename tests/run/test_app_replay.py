"""What was seen of a training is proved by replaying it: equal where it was all, far where it was not."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from fl_audit.core.losses import mean_cross_entropy
from fl_audit.core.types import CaptureKey, GroundTruth, Update
from fl_audit.federation._clipping import clipping_told
from fl_audit.federation.witness import Witness, report_clipping
from fl_audit.run.app_replay import CLOSE, Replay, replay, words

KEY = CaptureKey("none", 1, 0)
IMAGES = torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(2))
LABELS = torch.arange(8) % 3

Change = Callable[[nn.Module, Tensor], Tensor]


def net(*, norm: bool = False) -> nn.Module:
    torch.manual_seed(3)
    middle = nn.BatchNorm2d(4) if norm else nn.Identity()
    return nn.Sequential(nn.Conv2d(1, 4, 3), middle, nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def plain(model: nn.Module, loss: Tensor) -> Tensor:
    return loss


def trained(
    optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    *,
    loss: Change = plain,
    clip: float | None = None,
    accumulate: int = 1,
    norm: bool = False,
) -> tuple[Update, GroundTruth]:
    """Two epochs of four batches by hand, watched; gradients left over after an epoch are thrown away."""
    model = net(norm=norm)
    sent = {name: value.clone() for name, value in model.state_dict().items()}
    steps = optimizer(model)
    with Witness() as witness:
        for _ in range(2):
            steps.zero_grad()
            for number, (x, y) in enumerate(
                zip(torch.split(IMAGES, 2), torch.split(LABELS, 2), strict=True), 1
            ):
                torch.autograd.backward(loss(model, cross_entropy(model(x), y) / accumulate))
                if number % accumulate == 0:
                    if clip is not None:
                        nn.utils.clip_grad_norm_(model.parameters(), clip)
                    steps.step()
                    steps.zero_grad()
    truth = witness.truth()
    assert isinstance(truth, GroundTruth)
    return Update(KEY, 1, sent, {name: value.clone() for name, value in model.state_dict().items()}), truth


def replayed(update: Update, truth: GroundTruth, *, norm: bool = False) -> Replay:
    return replay(update, net(norm=norm), truth, truth.training, mean_cross_entropy)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


@pytest.mark.parametrize("optimizer", [sgd, lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3)])
def test_a_training_that_was_seen_in_full_gives_its_update_again(
    optimizer: Callable[[nn.Module], torch.optim.Optimizer],
) -> None:
    assert (
        replayed(*trained(optimizer, norm=True), norm=True).far < CLOSE / 4
    )  # Adam makes much of rounding before batch norm


def test_batches_whose_gradients_are_thrown_away_at_the_end_of_an_epoch_are_none_of_a_step() -> None:
    update, truth = trained(sgd, accumulate=3)
    assert truth.steps.tolist() == [0] * 6 + [1] * 6
    assert replayed(update, truth).far < 1e-3


def test_clipped_gradients_are_seen_and_replayed() -> None:
    for optimizer in (sgd, lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3)):
        with clipping_told(report_clipping):
            update, truth = trained(optimizer, clip=0.05)
        assert truth.training.clip_norm == 0.05
        assert truth.training.uniform
        assert replayed(update, truth).far < 1e-3
    assert nn.utils.clip_grad_norm_ is clip_grad_norm_


def test_what_was_not_seen_shows_in_the_update() -> None:
    def penalty(model: nn.Module, loss: Tensor) -> Tensor:
        return loss + 0.3 * sum((p.square().sum() for p in model.parameters()), torch.zeros(()))

    for changed in (trained(sgd, loss=penalty), trained(sgd, clip=0.05)):
        found = replayed(*changed)
        assert found.differs
        assert found.spread < 1e-3
        assert "was not found out in full" in words(found, KEY)


def test_an_update_that_is_only_longer_is_said_to_be() -> None:
    def doubled(model: nn.Module, loss: Tensor) -> Tensor:
        return 2 * loss

    def plain_sgd(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=1e-3)

    found = replayed(*trained(plain_sgd, loss=doubled))
    assert found.far == pytest.approx(0.5, abs=0.02)
    assert found.scale == pytest.approx(2, abs=0.05)
    assert f"multiplied by {found.scale:.3g}" in words(found, KEY)


def test_where_rounding_alone_moves_the_update_nothing_is_said() -> None:
    """Batch norm over two values makes plus and minus one of them, however close they are."""

    def chaotic() -> nn.Module:
        torch.manual_seed(5)
        layers = [nn.Linear(36, 36), nn.BatchNorm1d(36), nn.ReLU()] * 6
        return nn.Sequential(nn.Flatten(), *layers, nn.Linear(36, 3))

    model = chaotic()
    sent = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    with Witness() as witness:
        for _ in range(8):
            for x, y in zip(torch.split(IMAGES, 2), torch.split(LABELS, 2), strict=True):
                optimizer.zero_grad()
                torch.autograd.backward(cross_entropy(model(x), y))
                optimizer.step()
    truth = witness.truth()
    assert isinstance(truth, GroundTruth)
    update = Update(KEY, 1, sent, {name: value.clone() for name, value in model.state_dict().items()})
    back = replace(truth, images=((truth.images - 0.1307) / 0.3081) * 0.3081 + 0.1307)  # rounded
    found = replay(update, chaotic(), back, truth.training, mean_cross_entropy)
    assert found.far > CLOSE
    assert found.spread > CLOSE / 4
    assert not found.differs
