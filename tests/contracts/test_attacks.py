"""What every registered attack promises. A new attack is tested here without a line of its own."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fl_audit.attacks import Attack, AttackInterrupted, OptimisationAttack, attacks
from fl_audit.core.errors import ConfigError, KnowledgeError
from fl_audit.core.images import check_images
from fl_audit.core.knowledge import Knowledge
from fl_audit.core.progress import Progress
from fl_audit.core.types import Reconstruction, TrainingDetails, Update
from tests.attacks.cases import CPU, Case, make_case, snapshot

NAMES = attacks.names()
NET = {"analytic": "dense", "cocktail-party": "dense", "spear": "dense"}
"""The net of the tests where an attack does not work on a convolutional one."""

BATCHES: dict[str, Any] = {
    "one grey image of two classes": {"labels": (1,)},
    "three colour images of two classes": {"labels": (1, 0, 1), "shape": (3, 8, 8)},
    "three grey images of one of 100 classes": {"labels": (42, 42, 42), "classes": 100},
    "one colour image of 100 classes": {"labels": (99,), "classes": 100, "shape": (3, 9, 8)},
}


def smoke(name: str) -> Attack:
    """The attack with 3 iterations, where it has iterations."""
    has = attacks.get(name).model_fields
    return attacks.create(f"{name}:iterations=3" if "iterations" in has else name)


def reconstructs(name: str, case: Case) -> bool:
    """Whether the attack takes that many images; if not, it must say so."""
    most = attacks.get(name).max_images
    return most is None or len(case.images) <= most


def check_done(name: str, case: Case, result: Reconstruction) -> None:
    """Done, or failed because there are too many images, and by name."""
    if reconstructs(name, case):
        assert (result.status, result.reason) == ("done", None)
    else:
        assert result.status == "failed"
        assert name in (result.reason or "")
        assert str(len(case.images)) in (result.reason or "")


BUDGETS = {"auto": 2.0}
"""Seconds for attacks that run others with as many iterations as those have, where time may decide."""


def run(name: str, case: Case, seed: int = 0, budget: float | None = None) -> Reconstruction:
    return smoke(name).run(case.update, case.knowledge, seed=seed, device=CPU, budget=budget)


@pytest.mark.parametrize("inferred", [False, True], ids=["labels granted", "labels inferred"])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", NAMES)
def test_it_reconstructs_images_of_the_right_form(name: str, batch: str, inferred: bool) -> None:
    case = make_case(NET.get(name, "small"), grant_labels=not inferred, **BATCHES[batch])
    result = run(name, case)
    check_done(name, case, result)
    if not reconstructs(name, case):
        return
    assert result.images is not None
    check_images(result.images)
    assert result.images.shape[1:] == case.images.shape[1:]
    assert 1 <= len(result.images) <= len(case.images)
    if "labels" in attacks.get(name).uses and result.labels is not None:
        assert result.labels_inferred == inferred
        assert sorted(result.labels.tolist()) == sorted(case.labels.tolist())
    assert result.seconds > 0


@pytest.mark.parametrize("name", NAMES)
def test_one_seed_gives_one_result_and_nothing_else_is_touched(name: str) -> None:
    labels = (1,) if attacks.get(name).max_images == 1 else (1, 0, 1)
    case = make_case(NET.get(name, "small"), labels=labels, grant_labels=False)
    model = case.knowledge.model
    assert model is not None
    before = [snapshot(model), {**case.update.sent}, {**case.update.received}]
    copies = [{key: value.clone() for key, value in part.items()} for part in before]
    mode = [module.training for module in model.modules()]
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]

    first, second = run(name, case), run(name, case)

    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # type: ignore[index]
    assert random.getstate() == states[2]
    assert [module.training for module in model.modules()] == mode
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    after = [snapshot(model), case.update.sent, case.update.received]
    for old, new in zip(copies, after, strict=True):
        assert list(old) == list(new)
        assert all(torch.equal(old[key], new[key]) for key in old)
    assert first.images is not None
    assert second.images is not None
    assert torch.equal(first.images, second.images)
    assert first.facts() == second.facts()


@pytest.mark.parametrize("name", NAMES)
def test_missing_knowledge_is_refused_by_name(name: str) -> None:
    case = make_case(NET.get(name, "small"))
    for need in attacks.get(name).needs:
        without: dict[str, Any] = {need: None}
        with pytest.raises(KnowledgeError, match=rf"{name}.*{need}"):
            smoke(name).run(case.update, replace(case.knowledge, **without), seed=0, device=CPU)
    with pytest.raises(KnowledgeError, match="threat level A"):
        smoke(name).run(case.update, Knowledge("A"), seed=0, device=CPU)


@pytest.mark.parametrize("name", [n for n in NAMES if "loss" in attacks.get(n).needs])
def test_another_loss_is_refused_by_name(name: str) -> None:
    case = make_case()
    with pytest.raises(KnowledgeError, match="focal"):
        smoke(name).run(case.update, replace(case.knowledge, loss="focal"), seed=0, device=CPU)


def _nan(update: Update) -> Update:
    name = next(iter(update.received))
    return replace(update, received={**update.received, name: update.received[name] * float("nan")})


def _huge(update: Update) -> Update:
    return replace(update, received={key: torch.full_like(v, 3e38) for key, v in update.received.items()})


BROKEN: dict[str, tuple[Callable[[Update], Update], str]] = {
    "NaN": (_nan, "NaN"),
    "zero": (lambda update: replace(update, received=update.sent), "zero"),
    "error": (lambda update: replace(update, received={}, error="out of memory"), "out of memory"),
    "missing": (lambda update: replace(update, received={}), "missing"),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("name", NAMES)
def test_a_broken_update_is_a_failed_attack_with_the_reason(name: str, kind: str) -> None:
    case = make_case(NET.get(name, "small"))
    breaks, said = BROKEN[kind]
    result = smoke(name).run(breaks(case.update), case.knowledge, seed=0, device=CPU)
    assert result.status == "failed"
    assert result.images is None
    assert said in (result.reason or "")


@pytest.mark.parametrize("name", NAMES)
def test_an_absurd_update_never_gives_images_that_are_not_images(name: str) -> None:
    case = make_case(NET.get(name, "small"))
    result = smoke(name).run(_huge(case.update), case.knowledge, seed=0, device=CPU)
    if result.status == "done":
        assert result.images is not None
        check_images(result.images)
    else:
        assert result.reason


@pytest.mark.parametrize("name", NAMES)
def test_an_update_of_another_model_is_refused(name: str) -> None:
    case = make_case(NET.get(name, "small"), classes=2)
    other = make_case(NET.get(name, "small"), classes=5)
    with pytest.raises(ConfigError, match="does not fit the model"):
        smoke(name).run(other.update, case.knowledge, seed=0, device=CPU)


@pytest.mark.parametrize("name", NAMES)
def test_level_b_suffices(name: str) -> None:
    labels = (1,) if attacks.get(name).max_images == 1 else (1, 4, 4)
    case = make_case(
        NET.get(name, "small"), labels=labels, classes=10, grant_labels=False, grant_training=False
    )
    result = run(name, case)
    assert (result.status, result.reason) == ("done", None)
    assert result.notes
    assert result.labels is None or tuple(result.labels.tolist()) == labels


@pytest.mark.parametrize("name", NAMES)
def test_it_takes_updates_of_several_steps(name: str) -> None:
    training = TrainingDetails(learning_rate=0.05, momentum=0.9, local_steps=2, batch_size=2)
    case = make_case(NET.get(name, "small"), labels=(0, 1, 1, 0), training=training)
    check_done(name, case, run(name, case, budget=BUDGETS.get(name)))


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupt_passes_through(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(NET.get(name, "small"))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.nn.Linear, "forward", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(name, case)


class _CtrlC(Progress):
    def step(self, done: int, total: int, value: float | None = None) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("name", [n for n in NAMES if issubclass(attacks.get(n), OptimisationAttack)])
def test_ctrl_c_keeps_the_best_so_far(name: str) -> None:
    case = make_case(NET.get(name, "small"), labels=(1, 0, 1))
    with pytest.raises(AttackInterrupted) as caught:
        attacks.create(name).run(case.update, case.knowledge, seed=0, device=CPU, progress=_CtrlC())
    (result,) = caught.value.results
    assert result.status == "done"
    assert result.images is not None
    check_images(result.images)
    assert any("interrupted after" in note for note in result.notes)


@pytest.mark.parametrize("name", [n for n in NAMES if "iterations" in attacks.get(n).model_fields])
def test_a_time_budget_is_kept(name: str) -> None:
    labels = (1,) if attacks.get(name).max_images == 1 else (1, 0, 1)
    case = make_case(NET.get(name, "small"), labels=labels)
    endless = attacks.create(f"{name}:iterations=1000000")
    result = endless.run(case.update, case.knowledge, seed=0, device=CPU, budget=0.3)
    assert result.seconds < 30
    assert result.iterations < 1_000_000


@pytest.mark.parametrize("name", NAMES)
def test_it_declares_what_it_needs_and_where_it_comes_from(name: str) -> None:
    unit = attacks.get(name)
    fields = {"model", "loss", "num_classes", "image_shape", "training", "labels", "batch_norm", "surrogate"}
    assert unit.needs <= fields
    assert unit.uses <= fields
    assert not unit.needs & unit.uses
    assert "https://" in unit.paper
    assert unit.summary()
    assert unit.works
    assert unit.max_images is None or unit.max_images >= 1
    assert all(field.description for field in unit.model_fields.values())
