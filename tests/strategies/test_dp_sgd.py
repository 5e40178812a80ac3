"""dp-sgd: Opacus at work, against a slow loop, by hand and against its own accountant."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_audit.core.errors import ConfigError
from fl_audit.core.training import Batch, Exposure
from fl_audit.models import models
from fl_audit.strategies.defenses import defenses
from tests.strategies.training_cases import (
    CLASSES,
    batch_of,
    generator,
    gradients,
    learner,
    net,
)


def stepped(spec: str, model: nn.Module, batch: Batch | None, seed: int = 0) -> dict[str, Tensor]:
    """Minus the gradient of one step under ``spec``; None: a draw without images."""
    defense, model = defenses.create(spec), copy.deepcopy(model)
    who = learner(model, lr=1.0, batch_size=2, train_mode=False)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    model.eval()
    state = defense.begin(who, rng=generator(seed))
    state.optimizer.zero_grad()
    if batch is not None:
        loss = functional.cross_entropy(state.model(batch.images), batch.labels)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    state.optimizer.step()
    return {name: before[name] - value.detach() for name, value in model.named_parameters()}


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("build", ["net", "mlp:width=4", "resnet20-4:1"])
def test_dp_sgd_clips_every_example_as_a_slow_loop_does(build: str, count: int) -> None:
    """Sum of clipped gradients over the expected batch size, 2; the noise is too small to see."""
    defense = defenses.create("dp-sgd:noise_multiplier=1e-9,clipping_norm=0.7")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made: nn.Module = net() if build == "net" else models.create(build).build((3, 8, 8), CLASSES)
        model = defense.architecture(made)
    batch = batch_of(learner(model), count)
    expected = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    clipped = 0
    model.eval()
    for row in range(count):
        alone = Batch(batch.images[row : row + 1], batch.labels[row : row + 1], batch.originals[:1])
        found = gradients(model, alone)
        norm = math.sqrt(sum(float(g.square().sum()) for g in found.values()))
        clipped += norm > 0.7
        for name, gradient in found.items():
            expected[name] += gradient * min(1.0, 0.7 / norm) / 2
    assert clipped
    done = stepped("dp-sgd:noise_multiplier=1e-9,clipping_norm=0.7", model, batch)
    for name, value in expected.items():
        torch.testing.assert_close(done[name], value, atol=2e-5, rtol=1e-3)


def test_dp_sgd_adds_noise_of_the_stated_size_even_to_an_empty_draw() -> None:
    model = defenses.create("dp-sgd").architecture(models.create("mlp:width=64").build((3, 8, 8), 2))
    spec = "dp-sgd:noise_multiplier=3,clipping_norm=0.5"
    alone = stepped(spec, model, None)
    flat = torch.cat([value.flatten() for value in alone.values()])
    assert float(flat.std()) == pytest.approx(3 * 0.5 / 2, rel=0.03)  # over the expected batch size, 2
    assert float(flat.mean()) == pytest.approx(0, abs=0.03)
    for seed, same in ((0, True), (1, False)):
        again = stepped(spec, model, None, seed)
        for name in alone:
            assert torch.allclose(again[name], alone[name], atol=1e-5) == same


def test_batch_norm_becomes_group_norm() -> None:
    model = defenses.create("dp-sgd").architecture(models.create("convnet:4").build((3, 9, 9), 2))
    kinds = {type(module).__name__ for module in model.modules()}
    assert "GroupNorm" in kinds
    assert "BatchNorm2d" not in kinds


def test_a_layer_that_opacus_does_not_know_is_refused_before_any_work() -> None:
    frozen = defenses.create("freeze-bn").architecture(net())
    with pytest.raises(ConfigError, match="dp-sgd.*no per-example gradients"):
        defenses.create("dp-sgd").architecture(frozen)


def spent(spec: str, exposure: Exposure, rounds: int, delta: float = 1e-5) -> float:
    found = defenses.create(spec).example_privacy(exposure, rounds=rounds, delta=delta)
    assert found is not None
    assert found.delta == delta
    return found.epsilon


@pytest.mark.parametrize(("noise", "rate", "steps", "rounds"), [(1.0, 0.05, 4, 5), (0.7, 0.5, 1, 3)])
def test_epsilon_is_opacus_own_after_as_many_steps_as_were_taken(
    noise: float, rate: float, steps: int, rounds: int
) -> None:
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    for _ in range(steps * rounds):
        accountant.step(noise_multiplier=noise, sample_rate=rate)
    assert spent(f"dp-sgd:{noise}", Exposure(rate, steps), rounds) == accountant.get_epsilon(1e-5)


def test_epsilon_by_hand_and_at_the_edges() -> None:
    # At rate 1 a step is the plain Gaussian mechanism: epsilon 4.3772 for sigma 1, delta 1e-5 (closed form).
    assert spent("dp-sgd:1", Exposure(1.0, 1), 1) == pytest.approx(4.3772, abs=0.03)
    assert spent("dp-sgd:1", Exposure(1.0, 1), 1) >= 4.3772
    assert spent("dp-sgd:1", Exposure(0.1, 3), 0) == 0
    assert 200 < spent("dp-sgd:0.05", Exposure(0.1, 10), 40) < math.inf
    by_rate = [spent("dp-sgd:1", Exposure(rate, 2), 3) for rate in (0.01, 0.1, 1.0)]
    assert by_rate == sorted(by_rate)
    for spec in ("none", "dp", "mixup", "ats", "soteria"):
        assert defenses.create(spec).example_privacy(Exposure(0.5, 1), rounds=1, delta=1e-5) is None
    with pytest.raises(ValueError, match="rate"):
        spent("dp-sgd:1", Exposure(0.0, 1), 1)
