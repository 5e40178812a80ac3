"""Features read from a gradient against those of the true images, and the start that inverts them."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fl_audit.attacks import attacks
from fl_audit.attacks._features import Features, find_features
from fl_audit.attacks.feature_start import FeatureInversion, feature_distance, features_of
from fl_audit.attacks.labels import Labels, find_labels
from fl_audit.attacks.problem import Problem, prepare
from fl_audit.attacks.starts import MeanImage
from fl_audit.core.progress import Progress
from fl_audit.core.types import TrainingDetails
from tests.attacks.cases import CPU, NETS, Case, make_case


def problem_of(case: Case) -> Problem:
    return prepare(case.update, case.knowledge, seed=0, who="t", device=CPU, progress=Progress())


def found(case: Case) -> tuple[Problem, Features]:
    problem = problem_of(case)
    return problem, find_features(problem, find_labels(problem))


def seen_by(case: Case, layer: str) -> Tensor:
    """What a layer of the client's model as sent sees of the true images, by a plain hook."""
    model = case.knowledge.model
    assert model is not None
    model.load_state_dict(case.update.sent)
    training = case.knowledge.training
    model.train(training is not None and training.train_mode)
    seen: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    model(case.images)
    handle.remove()
    return seen[0].detach()


def apart(made: Tensor, wanted: Tensor) -> float:
    """Largest relative distance of a wanted row to the nearest one made."""
    return float((torch.cdist(wanted, made).min(1).values / wanted.norm(dim=1)).max())


TRAIN = TrainingDetails(batch_size=3, train_mode=True)
EXACT: dict[str, tuple[str, Callable[[], Case]]] = {
    "one image, last layer": ("6", lambda: make_case(labels=(1,))),
    "one image, first layer": ("2", lambda: make_case("dense", labels=(1,))),
    "repeated labels": ("6", lambda: make_case(labels=(3, 7, 7), classes=10)),
    "labels inferred": ("6", lambda: make_case(labels=(3, 7, 7), classes=10, grant_labels=False)),
    "batch norm": (
        "5",
        lambda: make_case("norm-without-dropout", labels=(3, 7, 7), classes=10, training=TRAIN),
    ),
    "scale unknown": ("6", lambda: make_case(labels=(3, 7, 7), classes=10, grant_training=False)),
}


@pytest.mark.parametrize("which", EXACT)
def test_features_are_those_of_the_true_images(which: str) -> None:
    layer, make = EXACT[which]
    case = make()
    _, features = found(case)
    assert features.layer == layer
    assert features.exact
    assert len(features.targets) == len(case.images)
    assert apart(features.targets, seen_by(case, layer)) < 1e-3


def test_where_images_outnumber_classes_they_are_the_mean_of_each_class() -> None:
    case = make_case(labels=(0, 1, 1, 0, 2, 1), classes=3)
    problem, features = found(case)
    assert not features.exact
    assert features.members.tolist() == [0, 1, 1, 0, 2, 1]
    seen = seen_by(case, features.layer)
    for place, label in enumerate(sorted(set(case.labels.tolist()))):
        rows = [seen[row].tolist() for row in range(6) if int(case.labels[row]) == label]
        mean = torch.tensor([sum(values) / len(rows) for values in zip(*rows, strict=True)])
        assert float((features.targets[place] - mean).norm() / mean.norm()) < 0.05
    FeatureInversion(iterations=1)(problem, find_labels(problem))
    assert any("approximately, as a mean of each class" in note for note in problem.notes)


def test_over_several_steps_they_are_said_to_be_approximate() -> None:
    training = TrainingDetails(learning_rate=0.01, local_steps=2, batch_size=2)
    case = make_case(labels=(0, 1, 2, 3), classes=10, training=training)
    problem, features = found(case)
    assert not features.exact
    FeatureInversion(iterations=1)(problem, find_labels(problem))
    assert any("approximately" in note and "2 local steps" in note for note in problem.notes)


def test_the_distance_is_that_of_loops() -> None:
    draw = torch.Generator().manual_seed(0)
    made, targets = torch.randn(4, 5, generator=draw), torch.randn(2, 5, generator=draw)
    features = Features("x", targets, torch.tensor([0, 1, 0, 0]), 0.0)
    off = []
    for place, rows in ((0, (0, 2, 3)), (1, (1,))):
        means = [sum(float(made[row, k]) for row in rows) / len(rows) for k in range(5)]
        off += [(mean - float(targets[place, k])) ** 2 for k, mean in enumerate(means)]
    assert float(feature_distance(made, features)) == pytest.approx(sum(off) / 10, rel=1e-5)


def test_features_that_are_the_pixels_give_the_images() -> None:
    case = make_case("dense", labels=(1,))
    problem = problem_of(case)
    start = FeatureInversion(iterations=200, tv=0.0)(problem, find_labels(problem))
    assert float((start - case.images).abs().max()) < 5e-3
    again = FeatureInversion(iterations=200, tv=0.0)(problem_of(case), find_labels(problem))
    assert torch.equal(start, again)
    assert any("'2', which the update shows exactly" in note for note in problem.notes)


def test_it_comes_nearer_to_the_features_of_each_image_than_the_start_it_has() -> None:
    case = make_case(labels=(3, 7), classes=10)
    problem = problem_of(case)
    labels = Labels(case.labels, inferred=False)
    features = find_features(problem, labels)

    def distance(images: Tensor) -> float:
        return float(feature_distance(features_of(problem, features.layer, images), features).detach())

    assert distance(FeatureInversion()(problem, labels)) < 0.02 * distance(MeanImage()(problem, labels))


def test_a_budget_that_is_spent_ends_it() -> None:
    case = make_case(labels=(1,))
    result = attacks.create("inverting-gradients:start=features,iterations=3").run(
        case.update, case.knowledge, seed=0, device=CPU, budget=1e-3
    )
    assert result.status == "done"


def no_bias(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes, bias=False))


def no_linear_end(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(shape[0], classes, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def noisy(case: Case) -> Case:
    draw = torch.Generator().manual_seed(0)
    received = {
        name: value + torch.randn(value.shape, generator=draw) for name, value in case.update.received.items()
    }
    return replace(case, update=replace(case.update, received=received))


REFUSED: dict[str, tuple[Callable[[], Case], str]] = {
    "no linear end": (lambda: make_case("no linear end"), "does not end in a linear layer"),
    "no bias": (lambda: make_case("no bias"), "no linear layer with a bias"),
    "noise": (lambda: noisy(make_case(labels=(0, 1, 1))), "most of the gradient of the last layer"),
}


@pytest.mark.parametrize("preset", ["inverting-gradients", "see-through-gradients", "dlg"])
@pytest.mark.parametrize("why", REFUSED)
def test_where_nothing_shows_features_the_start_is_refused_by_name(
    why: str, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NETS, "no bias", no_bias)
    monkeypatch.setitem(NETS, "no linear end", no_linear_end)
    make, said = REFUSED[why]
    case = make()
    result = attacks.create(f"{preset}:start=features,iterations=1").run(
        case.update, case.knowledge, seed=0, device=CPU
    )
    assert result.status == "failed"
    assert "start=features" in (result.reason or "")
    assert said in (result.reason or "")
