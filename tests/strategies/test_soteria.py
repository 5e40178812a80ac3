"""Soteria: which features it prunes, and what its gradient still tells of the representation."""

import copy

import torch
from torch import Tensor, nn

from fl_audit.strategies.defenses import defenses
from fl_audit.strategies.defenses.soteria import feature_scores, kept_features
from tests.strategies.training_cases import (
    batch_of,
    generator,
    gradients,
    learner,
    linear_net,
    net,
)


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
