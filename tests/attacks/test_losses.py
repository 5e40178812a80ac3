"""Losses: cross-entropy, one's own by module:function, and what is refused."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fl_audit.attacks import Attack, attacks
from fl_audit.attacks.losses import find_loss, mean_cross_entropy
from fl_audit.attacks.problem import prepare
from fl_audit.attacks.simulation import simulate
from fl_audit.core.errors import KnowledgeError
from fl_audit.core.progress import Progress
from fl_audit.core.types import Reconstruction
from tests.attacks.cases import CPU, Case, make_case

SQUARES = f"{__name__}:squares"
NOTHING = 3


def squares(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean squared error to one-hot labels."""
    return (logits - one_hot(labels, logits.shape[1])).square().mean()


def trained_on_squares() -> Case:
    case = make_case(labels=(0, 1), classes=3)
    model = case.knowledge.model
    assert model is not None
    model.load_state_dict(dict(case.update.sent))
    torch.autograd.backward(squares(model(case.images), case.labels))
    received = {name: p.detach() - 0.1 * p.grad for name, p in model.named_parameters() if p.grad is not None}
    return replace(
        case,
        update=replace(case.update, received=received),
        knowledge=replace(case.knowledge, loss=SQUARES),
    )


def attacked(attack: Attack, case: Case) -> Reconstruction:
    return attack.run(case.update, case.knowledge, seed=0, device=CPU)


def test_a_loss_of_ones_own_is_simulated() -> None:
    case = trained_on_squares()
    problem = prepare(
        case.update,
        case.knowledge,
        seed=0,
        who="test",
        device=CPU,
        progress=Progress(),
        loss=find_loss(SQUARES, "test"),
    )
    seen = simulate(problem, case.images, case.labels)
    assert all(torch.allclose(seen[name], v, atol=1e-5) for name, v in problem.observed.items())


def test_with_it_an_attack_finds_the_image_and_without_it_does_not() -> None:
    case = trained_on_squares()
    attack = attacks.create("dlg:iterations=60,restarts=1")
    right = attacked(attack, case)
    wrong = attacked(attack, replace(case, knowledge=replace(case.knowledge, loss="cross-entropy")))
    assert right.objective < 1e-3 < wrong.objective


def test_labels_are_not_inferred_from_another_loss() -> None:
    case = trained_on_squares()
    result = attacked(
        attacks.create("dlg:iterations=1"), replace(case, knowledge=replace(case.knowledge, labels=None))
    )
    assert result.status == "failed"
    assert "threat.labels" in str(result.reason)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("focal", "threat.loss"),
        ("no.such.module:f", "no module"),
        (f"{__name__}:missing", "no attribute"),
        (f"{__name__}:NOTHING", "no function"),
    ],
)
def test_what_is_no_loss_is_refused_with_the_way_to_give_one(name: str, why: str) -> None:
    with pytest.raises(KnowledgeError, match=rf"'dlg'.*module:function.*{why}" if ":" in name else why):
        find_loss(name, "dlg")
    assert find_loss("cross-entropy", "dlg") is mean_cross_entropy


def test_smoothed_labels_are_those_of_the_definition() -> None:
    logits, labels = torch.randn(4, 5, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 3, 3, 1])
    target = 0.8 * one_hot(labels, 5) + 0.2 / 5  # Szegedy et al. 2016, section 7
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    found = find_loss("cross-entropy(label_smoothing=0.2)", "test")
    assert torch.allclose(found(logits, labels), expected, atol=1e-6)
    with pytest.raises(KnowledgeError, match=r"label_smoothing=0\.1"):
        find_loss("cross-entropy(x=1)", "test")
