"""Defenses that act inside local training, one hook at a time, against oracles of their own."""

import copy
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import Tensor, nn
from torch.nn import functional

from fl_audit.core.errors import ConfigError
from fl_audit.core.hook_chain import HookChain, check_together
from fl_audit.core.training import Exposure, Training
from fl_audit.core.units import Defense
from fl_audit.models import models
from fl_audit.strategies.defenses import defenses
from fl_audit.strategies.defenses._bottleneck import VariationalBottleneck, divergence
from fl_audit.strategies.defenses._layers import last_linear
from fl_audit.strategies.defenses.mixup import beta
from fl_audit.strategies.defenses.soteria import feature_scores, kept_features
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
    out = defenses.create(spec).apply({}, received, rng=np.random.default_rng(0))
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


def test_soteria_scores_are_those_of_the_paper_by_hand() -> None:
    """Where the representation is W x + b, its derivative is W."""
    model = linear_net()
    images = torch.rand(4, 3, 8, 8, generator=generator())
    layer = model[1]
    assert isinstance(layer, nn.Linear)
    features = images.flatten(1) @ layer.weight.T + layer.bias
    expected = sum(layer.weight.detach().norm(dim=1) / (row.detach().abs() + 0.1) for row in features)
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(feature_scores(model, "2", images), expected)
    kept = kept_features(expected, 0.35)
    assert kept.sum() == 7
    assert float(expected[kept == 0].max()) <= float(expected[kept == 1].min())


def test_soteria_leaves_model_and_generators_alone() -> None:
    model = net().train()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    feature_scores(model, "head", torch.rand(2, 3, 8, 8, generator=generator()))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_soteria_prunes_columns_so_that_the_gradient_tells_a_wrong_representation() -> None:
    """With one image, weight gradient over bias gradient is the representation: the leak it is made for."""
    who = learner(linear_net())
    batch = batch_of(who, 1)
    plain = gradients(who.model, batch)
    layers = who.model
    assert isinstance(layers, nn.Sequential)
    features = layers[1](layers[0](batch.images)).detach()[0]
    errors = []
    for fraction in (0.0, 0.3, 0.6, 0.9):
        defended = dict(defenses.create(f"soteria:{fraction}").gradients(plain, who, batch))
        assert list(defended) == list(plain)
        assert all(torch.equal(defended[name], plain[name]) for name in plain if name != "2.weight")
        assert int((defended["2.weight"] == 0).all(0).sum()) == int(10 * fraction)
        read = defended["2.weight"][0] / defended["2.bias"][0]
        errors.append(float((read - features).norm() / features.norm()))
    assert errors[0] < 1e-4
    assert errors == sorted(errors)
    assert errors[-1] > 0.5


def test_a_model_without_a_linear_layer_is_refused_by_name() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    for spec in ("soteria", "precode"):
        with pytest.raises(ConfigError, match=f"{spec}.*linear"):
            defenses.create(spec).architecture(model)


def test_the_bottleneck_sits_before_the_classifier() -> None:
    model = defenses.create("precode:size=8").architecture(net())
    name, layer = last_linear(model, "test")
    assert (name, layer.out_features) == ("head.1", CLASSES)
    assert isinstance(model.get_submodule("head.0"), VariationalBottleneck)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert shapes["head.0.encoder.weight"] == (16, 256)
    assert shapes["head.0.decoder.weight"] == (256, 8)
    alone = defenses.create("precode:size=8").architecture(nn.Linear(5, 2))
    assert alone(torch.rand(3, 5)).shape == (3, 2)


def test_divergence_is_that_of_two_gaussians_in_bits() -> None:
    mean, deviation = torch.randn(4, 6, generator=generator()), torch.rand(4, 6, generator=generator()) + 0.1
    there = torch.distributions.Normal(mean, deviation)
    standard = torch.distributions.Normal(torch.zeros(6), torch.ones(6))
    nats = torch.distributions.kl_divergence(there, standard).sum(1).mean()
    torch.testing.assert_close(divergence(mean, deviation), nats / math.log(2))


def test_the_objective_is_the_loss_plus_the_divergence_of_the_draw() -> None:
    defense = defenses.create("precode:size=4,beta=0.3")
    model = defense.architecture(linear_net())
    who = learner(model)
    batch = batch_of(who)
    defense.begin(who, rng=generator(5))
    loss = functional.cross_entropy(model(batch.images), batch.labels)
    objective = defense.objective(loss, who, batch)
    noise = torch.randn(3, 4, generator=generator(5))
    table = dict(model.named_parameters())

    def linear(name: str, values: Tensor) -> Tensor:
        return values @ table[f"{name}.weight"].T + table[f"{name}.bias"]

    coded = linear("2.0.encoder", linear("1", batch.images.flatten(1)))
    mean, deviation = coded[:, :4], functional.softplus(coded[:, 4:])
    logits = linear("2.1", linear("2.0.decoder", mean + deviation * noise))
    expected = functional.cross_entropy(logits, batch.labels) + 0.3 * divergence(mean, deviation)
    torch.testing.assert_close(objective, expected)
    assert defense.objective(loss, who, batch) is loss  # what is spent is not counted again


def test_only_a_client_in_training_draws_from_the_bottleneck() -> None:
    defense = defenses.create("precode:size=8")
    model = defense.architecture(net()).eval()
    who = learner(model)
    batch = batch_of(who)
    known = gradients(model, batch)
    assert all(torch.equal(g, known[name]) for name, g in gradients(model, batch).items())
    defense.begin(who, rng=generator(5))
    one, other = gradients(model, batch), gradients(model, batch)
    for name in known:  # every layer's gradient hangs on the draw
        assert not torch.equal(one[name], known[name]), name
        assert not torch.equal(one[name], other[name]), name
    defense.begin(who, rng=generator(5))
    assert all(torch.equal(g, one[name]) for name, g in gradients(model, batch).items())
    with torch.no_grad():
        assert torch.equal(model(batch.images), model(batch.images))


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
