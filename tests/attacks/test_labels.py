"""Label inference: multisets, repeated labels included, against the labels that were trained on."""

import pytest
import torch
from torch import nn

from fl_audit.attacks import AttackFailed
from fl_audit.attacks.labels import find_labels
from fl_audit.attacks.problem import prepare
from fl_audit.core.progress import Progress
from fl_audit.core.types import TrainingDetails
from tests.attacks.cases import CPU, NETS, Case, make_case


def inferred(case: Case) -> list[int]:
    problem = prepare(case.update, case.knowledge, seed=0, who="test", device=CPU, progress=Progress())
    labels = find_labels(problem)
    assert labels.inferred
    return sorted(labels.values.tolist())


MULTISETS = {
    "peer bug": (3, 3, 3, 7),
    "one": (5,),
    "all one class": (2,) * 8,
    "all classes": tuple(range(10)),
    "sixteen": (0, 0, 0, 0, 0, 1, 1, 4, 4, 4, 6, 8, 8, 9, 9, 9),
}


@pytest.mark.parametrize("granted", [True, False], ids=["scale known", "scale unknown"])
@pytest.mark.parametrize("multiset", MULTISETS)
@pytest.mark.parametrize("net", ["small", "dense", "norm"])
def test_labels_come_out_right(net: str, multiset: str, granted: bool) -> None:
    labels = MULTISETS[multiset]
    if not granted and len(set(labels)) == 10:
        pytest.skip("without a class that is absent the scale cannot be told")
    case = make_case(net, labels=labels, classes=10, grant_labels=False, grant_training=granted)
    assert inferred(case) == sorted(labels)


@pytest.mark.parametrize("granted", [True, False], ids=["scale known", "scale unknown"])
def test_a_hundred_classes(granted: bool) -> None:
    labels = (3, 3, 3, 7, 50, 99, 99, 0)
    case = make_case(labels=labels, classes=100, grant_labels=False, grant_training=granted)
    assert inferred(case) == sorted(labels)


@pytest.mark.parametrize("images", [32, 64])
def test_many_images_each_class_several_times(images: int) -> None:
    labels = tuple(sorted((number * number) % 10 for number in range(images)))
    assert inferred(make_case("norm", labels=labels, classes=10, grant_labels=False)) == list(labels)


def test_few_images_are_proved_and_wrong_counts_of_many_steps_are_not() -> None:
    case = make_case(labels=(3, 3, 3, 7), classes=10, grant_labels=False)
    problem = prepare(case.update, case.knowledge, seed=0, who="test", device=CPU, progress=Progress())
    find_labels(problem)
    assert any("the labels are proved" in note for note in problem.notes)
    training = TrainingDetails(learning_rate=0.01, local_steps=2, batch_size=2)
    several = make_case(labels=(3, 3, 3, 7), classes=10, training=training, grant_labels=False)
    problem = prepare(several.update, several.knowledge, seed=0, who="test", device=CPU, progress=Progress())
    find_labels(problem)
    assert not any("proved" in note for note in problem.notes)


def test_two_classes_need_the_scale() -> None:
    labels = (1, 0, 1)
    assert inferred(make_case(labels=labels, grant_labels=False)) == [0, 1, 1]
    blind = make_case(labels=labels, grant_labels=False, grant_training=False)
    problem = prepare(blind.update, blind.knowledge, seed=0, who="test", device=CPU, progress=Progress())
    find_labels(problem)
    assert any("is a guess" in note for note in problem.notes)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_several_steps(momentum: float) -> None:
    # With momentum the first step counts more than the second, so the steps hold the same labels here.
    training = TrainingDetails(learning_rate=0.01, momentum=momentum, local_steps=2, batch_size=4)
    labels = (1, 4, 4, 7, 7, 4, 1, 4) if momentum else (1, 1, 4, 4, 4, 7, 7, 7)
    case = make_case(labels=labels, classes=10, training=training, grant_labels=False)
    assert inferred(case) == sorted(labels)


@pytest.mark.parametrize("labels", [(5,), (3, 3, 3, 7)])
def test_a_last_layer_without_bias(labels: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def unbiased(shape: tuple[int, int, int], classes: int) -> nn.Module:
        pixels = shape[0] * shape[1] * shape[2]
        return nn.Sequential(
            nn.Flatten(), nn.Linear(pixels, 64), nn.ReLU(), nn.Linear(64, classes, bias=False)
        )

    monkeypatch.setitem(NETS, "unbiased", unbiased)
    assert inferred(make_case("unbiased", labels=labels, classes=10, grant_labels=False)) == sorted(labels)


def test_a_model_without_a_linear_end_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def pooled(shape: tuple[int, int, int], classes: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(shape[0], classes, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    monkeypatch.setitem(NETS, "pooled", pooled)
    with pytest.raises(AttackFailed, match="does not end in a linear layer"):
        inferred(make_case("pooled", labels=(1,), grant_labels=False))


def test_granted_labels_keep_their_order() -> None:
    case = make_case(labels=(1, 0, 1))
    problem = prepare(case.update, case.knowledge, seed=0, who="test", device=CPU, progress=Progress())
    labels = find_labels(problem)
    assert not labels.inferred
    assert torch.equal(labels.values, case.labels)
