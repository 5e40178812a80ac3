"""How many images an update is taken to be of, and which local step uses which."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from fl_audit.attacks import Problem
from fl_audit.attacks.problem import MAX_IMAGES
from fl_audit.core.types import TrainingDetails
from tests.attacks.cases import Case, make_case
from tests.attacks.preparing import granting, noted, prepared


def count(case: Case) -> tuple[int, tuple[int, ...]]:
    problem = prepared(case)
    return problem.num_images, problem.step_sizes


def test_the_number_of_images_comes_from_the_best_source() -> None:
    training = TrainingDetails(local_steps=2, batch_size=3)
    labels = (0, 1, 1, 0, 1)
    assert count(make_case(labels=labels, training=training)) == (5, (3, 2))
    assert count(make_case(labels=labels, training=training, grant_labels=False)) == (5, (3, 2))
    unsaid = make_case(labels=(0, 1) * 3, training=training, grant_labels=False, metrics={})
    assert count(unsaid) == (6, (3, 3))
    told = make_case(labels=labels, training=training, grant_labels=False, grant_training=False)
    assert count(told) == (5, (5,))
    nothing = make_case(grant_labels=False, grant_training=False, metrics={})
    assert count(nothing) == (1, (1,))
    many = make_case(grant_labels=False, grant_training=False, metrics={"num-examples": 500})
    assert count(many) == (MAX_IMAGES, (MAX_IMAGES,))
    assert noted(prepared(many), "500")
    assert "the update is of 500 images; 64 are attempted" in str(prepared(many).left_out)
    assert prepared(unsaid).left_out is None


@pytest.mark.parametrize("net", ["small", "dense", "norm"])
def test_the_rank_of_a_gradient_counts_the_images_where_nobody_says(net: str) -> None:
    def silent(labels: tuple[int, ...], classes: int, **more: Any) -> Case:
        return make_case(
            net, labels=labels, classes=classes, grant_labels=False, grant_training=False, metrics={}, **more
        )

    problem = prepared(silent((2, 2, 5, 7, 7), 10))
    assert problem.num_images == 5
    assert noted(problem, "5 are assumed, since the gradient of a linear layer has that rank")
    # Ten classes show nine images of a last layer; the dense net's first layer shows all.
    crowd = prepared(silent(tuple(range(10)) * 2, 10))
    assert crowd.num_images == (20 if net == "dense" else 9)
    training = TrainingDetails(learning_rate=0.01, local_steps=2, batch_size=2)
    assert prepared(silent((1, 4, 4, 6), 10, training=training)).num_images == 4


def test_noise_and_pruning_hide_the_number_of_images() -> None:
    case = make_case("dense", grant_labels=False, grant_training=False, metrics={}, classes=10, labels=(2, 3))
    noise = torch.Generator().manual_seed(0)
    noisy = {
        name: value + 0.1 * torch.randn(value.shape, generator=noise)
        for name, value in case.update.received.items()
    }
    assert prepared(replace(case, update=replace(case.update, received=noisy))).num_images == 1


def passes(steps: int, batch: int, told: int, labels: list[int] | None = None) -> Problem:
    case = make_case(grant_labels=False, metrics={"num-examples": told}, classes=10)
    marks = None if labels is None else torch.tensor(labels)
    training = TrainingDetails(local_steps=steps, batch_size=batch)
    return prepared(granting(case, training=training, labels=marks))


def uses(problem: Problem) -> list[int] | None:
    return None if problem.uses is None else problem.uses.tolist()


def test_passes_share_their_images() -> None:
    twice = passes(4, 3, 5)
    assert (twice.num_images, twice.step_sizes, twice.first_pass) == (5, (3, 2, 3, 2), (3, 2))
    assert uses(twice) == [0, 1, 2, 3, 4] * 2
    assert noted(twice, "passed over its 5 images 2 times: each pass is assumed")
    begun = passes(3, 3, 5)
    assert (begun.num_images, begun.step_sizes, uses(begun)) == (5, (3, 2, 3), [0, 1, 2, 3, 4, 0, 1, 2])
    once = passes(2, 3, 5)
    assert (once.num_images, once.step_sizes, uses(once)) == (5, (3, 2), None)
    fewer = passes(2, 3, 20)
    assert (fewer.num_images, fewer.step_sizes, uses(fewer)) == (6, (3, 3), None)


def test_labels_tell_the_order_of_later_passes() -> None:
    problem = passes(4, 2, 4, [3, 1, 1, 2, 1, 2, 3, 1])
    assert uses(problem) == [0, 1, 2, 3, 1, 3, 0, 2]
    assert problem.labels is not None
    assert problem.labels.tolist() == [3, 1, 1, 2]
    assert noted(problem, "the labels tell the order")


def test_uses_that_are_no_passes_are_images_of_their_own() -> None:
    for problem in (passes(4, 2, 4, [3, 1, 1, 2, 1, 1, 3, 1]), passes(4, 2, 5, [3, 1, 1, 2, 3, 1, 1, 2])):
        assert (problem.num_images, problem.step_sizes, uses(problem)) == (8, (2, 2, 2, 2), None)
        assert noted(problem, "as an image of its own")


def test_more_images_than_can_be_attempted_keep_their_passes() -> None:
    problem = passes(20, 10, 100)
    assert (problem.num_images, len(problem.step_sizes), sum(problem.first_pass)) == (
        MAX_IMAGES,
        20,
        MAX_IMAGES,
    )
    assert uses(problem) == [*range(MAX_IMAGES)] * 2


def test_one_gradient_of_several_passes_has_the_images_once() -> None:
    case = make_case(labels=(0, 1), order=(0, 1, 1, 0), grant_training=False, metrics={"num-examples": 2})
    problem = prepared(case)
    assert (problem.num_images, problem.step_sizes, uses(problem)) == (2, (2,), None)
    assert problem.labels is not None
    assert problem.labels.tolist() == [0, 1]
