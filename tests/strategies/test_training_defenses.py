"""Defenses that act inside local training, one hook at a time, against oracles of their own."""

import copy
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import nn
from torch.nn import functional

from fl_audit.core.errors import ConfigError
from fl_audit.core.hook_chain import HookChain, check_together
from fl_audit.core.training import Exposure, Training
from fl_audit.core.units import Defense
from fl_audit.models import models
from fl_audit.strategies.defenses import defenses
from fl_audit.strategies.defenses.mixup import beta
from tests.strategies.training_cases import (
    CLASSES,
    TRAINING,
    batch_of,
    generator,
    gradients,
    learner,
    linear_net,
    net,
)


def test_the_contract_covers_every_defense_that_acts_on_training() -> None:
    registered = {name for name, unit in defenses if unit.acts_on == "training"}
    assert registered == {spec.partition(":")[0] for spec in TRAINING}
    assert registered == {name for name, unit in defenses if _hooked(unit)}


def _hooked(unit: type[Defense]) -> bool:
    return unit.model_construct().acts_on_training


class Chain(HookChain):
    def __init__(self, *specs: str) -> None:
        self.members = tuple(defenses.create(spec) for spec in specs)


def test_a_chain_is_its_members_one_after_the_other() -> None:
    chain = Chain("ats:3-1-7", "mixup", "local-steps:3", "precode:size=4", "soteria:0.5", "clip:1")
    assert chain.acts_on_training
    assert chain.reshapes
    assert not Chain("clip:1", "dp").acts_on_training
    assert chain.training(Training()).local_steps == 3
    model = chain.architecture(linear_net())
    who = learner(model)
    assert chain.begin(who, rng=generator(1)) is who
    draws, ours = generator(2), batch_of(who)
    for member in chain.members:
        ours = member.batch(ours, who, rng=draws)
    out = chain.batch(batch_of(who), who, rng=generator(2))
    assert torch.equal(out.images, ours.images)
    assert torch.equal(out.labels, ours.labels)
    assert torch.equal(out.originals, batch_of(who).images)
    loss = functional.cross_entropy(model(out.images), out.labels)
    assert float(chain.objective(loss, who, out).detach()) > float(loss.detach())
    pruned = chain.gradients(gradients(model, out), who, out)["2.1.weight"]
    assert int((pruned == 0).all(0).sum()) == 5


def test_a_chain_has_the_guarantee_of_its_member_and_refuses_what_voids_it() -> None:
    alone = defenses.create("dp-sgd").example_privacy(Exposure(0.1, 1), rounds=2, delta=1e-5)
    together = Chain("dp-sgd", "clip:1").example_privacy(Exposure(0.1, 1), rounds=2, delta=1e-5)
    assert together == alone
    check_together(Chain("dp-sgd", "local-steps", "ats", "clip:1").members)
    for specs in (("soteria", "dp-sgd"), ("dp-sgd", "mixup"), ("dp-sgd", "dp-sgd")):
        with pytest.raises(ValueError, match="does not hold together"):
            check_together(Chain(*specs).members)


@pytest.mark.parametrize("spec", TRAINING)
def test_the_update_leaves_as_it_was_trained(spec: str) -> None:
    received = {"w": np.ones(3, np.float32), "n": np.asarray(3)}
    out = defenses.create(spec).apply({}, received, rng=np.random.default_rng(0), state={})
    assert out == received
    assert out is not received


@pytest.mark.parametrize("spec", TRAINING)
def test_batches_stay_batches_and_one_seed_gives_one_batch(spec: str) -> None:
    defense, who = defenses.create(spec), learner(net())
    batch = batch_of(who)
    before = copy.deepcopy(batch)
    out, again = (defense.batch(batch, who, rng=generator(4)) for _ in range(2))
    assert torch.equal(batch.images, before.images)
    assert torch.equal(batch.labels, before.labels)
    assert torch.equal(out.images, again.images)
    assert torch.equal(out.originals, batch.images)
    assert out.images.shape == batch.images.shape
    assert out.images.dtype == torch.float32
    assert float(out.images.min()) >= 0
    assert float(out.images.max()) <= 1
    changed = not torch.equal(out.images, batch.images)
    assert changed == spec.startswith(("ats", "mixup"))
    assert math.isfinite(float(functional.cross_entropy(who.model(out.images), out.labels).detach()))


@pytest.mark.parametrize("spec", [*TRAINING, "none", "dp", "clip:1"])
def test_only_what_another_process_must_know_of_the_model_is_named(spec: str) -> None:
    defense = defenses.create(spec)
    assert defense.reshapes == spec.startswith(("dp-sgd", "freeze-bn", "precode", "soteria"))
    shapes = {name: value.shape for name, value in net().state_dict().items()}
    altered = {name: value.shape for name, value in defense.architecture(net()).state_dict().items()}
    if not spec.startswith(("dp-sgd", "precode")):
        assert altered == shapes


@pytest.mark.parametrize("spec", TRAINING)
def test_a_worker_of_ray_gets_the_same_defense(spec: str) -> None:
    ray = pytest.importorskip("ray")
    defense = defenses.create(spec)
    assert ray.cloudpickle.loads(ray.cloudpickle.dumps(defense)) == defense


def test_local_steps_takes_the_place_of_the_configured_length() -> None:
    training = Training(local_steps=None, local_epochs=2, batch_size=4)
    changed = defenses.create("local-steps:6").training(training)
    assert (changed.local_steps, changed.local_epochs, changed.batch_size) == (6, None, 4)
    assert defenses.create("local-steps:steps=6,batch_size=2").training(training).batch_size == 2
    assert changed.steps(100) == 6
    assert training.steps(10) == 6  # two passes of three batches


def test_frozen_batch_norm_is_eval_mode_whatever_the_mode() -> None:
    plain, frozen = net(), defenses.create("freeze-bn").architecture(net())
    images = torch.rand(4, 3, 8, 8, generator=generator())
    before = {name: buffer.clone() for name, buffer in frozen.named_buffers()}
    frozen.train()
    torch.testing.assert_close(frozen(images), plain.eval()(images))
    assert frozen.training
    assert all(torch.equal(buffer, before[name]) for name, buffer in frozen.named_buffers())
    plain.train()(images)
    assert any(not torch.equal(buffer, before[name]) for name, buffer in plain.named_buffers())
    with pytest.raises(ConfigError, match="nothing to freeze"):
        defenses.create("freeze-bn").architecture(models.create("lenet").build((1, 8, 8), 2))


def test_a_mixed_image_is_a_weighted_mean_of_its_original_and_another_and_so_is_its_label() -> None:
    who = learner(net(), images=6)
    out = defenses.create("mixup").batch(batch_of(who, 6), who, rng=generator(3))
    targets = functional.one_hot(who.labels, CLASSES).float()
    partners = set()
    for row in range(6):
        if torch.allclose(out.images[row], who.images[row], atol=1e-5):
            continue  # its partner is itself
        fits = []
        for other in set(range(6)) - {row}:
            away = who.images[row] - who.images[other]
            weight = float(((out.images[row] - who.images[other]) * away).sum() / away.square().sum())
            mean = weight * who.images[row] + (1 - weight) * who.images[other]
            if torch.allclose(mean, out.images[row], atol=1e-5):
                fits.append((other, weight))
        assert len(fits) == 1
        other, weight = fits[0]
        partners.add(other)
        assert 0.5 <= weight <= 1
        expected = weight * targets[row] + (1 - weight) * targets[other]
        torch.testing.assert_close(out.labels[row], expected, atol=1e-4, rtol=0)
    assert len(partners) > 1


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
def test_mixing_weights_follow_the_beta_distribution(alpha: float) -> None:
    drawn = beta(alpha, 4000, generator(1)).double().numpy()
    assert kstest(drawn, "beta", args=(alpha, alpha)).pvalue > 0.01


def test_a_model_without_a_linear_layer_is_refused_by_name() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    for spec in ("soteria", "precode"):
        with pytest.raises(ConfigError, match=f"{spec}.*linear"):
            defenses.create(spec).architecture(model)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("ats:3-50", "operations 0 to 49"),
        ("ats:shift", "e.g. 3-1-7"),
        ("dp-sgd:0", "noise_multiplier"),
        ("mixup:-1", "alpha"),
        ("precode:0", "size"),
        ("soteria:1", "fraction"),
        ("local-steps:0", "steps"),
        ("freeze-bn:1", "expected key=value"),
    ],
)
def test_impossible_parameters_are_refused(spec: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        defenses.create(spec)


def test_what_would_void_the_guarantee_is_named() -> None:
    unit: type[Defense] = defenses.get("dp-sgd")
    assert unit.excludes == {"dp-sgd", "mixup", "soteria"}
    assert unit.excludes <= set(defenses.names())


def test_listing_defenses_does_not_wait_for_opacus() -> None:
    code = (
        "import sys\n"
        "from fl_audit.strategies.defenses import defenses\n"
        "defenses.create('dp-sgd')\n"
        "print('opacus' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
