"""PRECODE: its bottleneck, where it sits, what it adds to the loss, and when it draws."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_audit.strategies.defenses import defenses
from fl_audit.strategies.defenses._bottleneck import VariationalBottleneck, divergence
from fl_audit.strategies.defenses._layers import last_linear
from tests.strategies.training_cases import (
    CLASSES,
    batch_of,
    generator,
    gradients,
    learner,
    linear_net,
    net,
)


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
