"""What every registered defense, and every stack, must do."""

import re

import numpy as np
import pytest

from fl_audit.core.units import Defense
from fl_audit.strategies.defenses import defenses

REQUIRED = {
    "clip": "0.5",
    "laplace": "0.1",
    "noise": "0.1",
    "prune": "0.5",
    "topk": "0.3",
}
"""Parameters of those that have no default for all of theirs."""

SPECS = [f"{name}:{REQUIRED[name]}" if name in REQUIRED else name for name in defenses.names()]
SPECS += [
    "laplace:scale=0.1,clipping_norm=1",
    "topk:fraction=0.3,momentum=0.9",
    "quantize:bits=1,error_feedback=true",
    "topk:0.3+dp",
    "dp-client+secagg",
]
ROUNDS = 3


def arrays(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "weight": rng.normal(size=(5, 4)).astype(np.float32),
        "scalar": np.asarray(rng.normal(), np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "counter": np.asarray(seed),
    }


def rounds(defense: Defense) -> list[dict[str, np.ndarray]]:
    """What leaves in several rounds of one client."""
    state: dict[str, np.ndarray] = {}
    left = []
    for number in range(ROUNDS):
        before = {name: (array, array.copy()) for name, array in state.items()}
        rng = np.random.default_rng(number)
        left.append(defense.apply(arrays(0), arrays(1 + number), rng=rng, state=state))
        for array, copy in before.values():
            assert np.array_equal(array, copy), "the state was changed in place"
        assert all(isinstance(array, np.ndarray) for array in state.values())
    return left


@pytest.mark.parametrize("spec", SPECS)
def test_the_same_seed_and_history_give_the_same_updates_of_the_same_form(spec: str) -> None:
    once, again = rounds(defenses.create(spec)), rounds(defenses.create(spec))
    for number, (one, other) in enumerate(zip(once, again, strict=True)):
        for name, array in arrays(1 + number).items():
            assert np.array_equal(one[name], other[name])
            assert (one[name].shape, one[name].dtype) == (array.shape, array.dtype)
            assert np.isfinite(one[name]).all()


@pytest.mark.parametrize("spec", SPECS)
def test_a_defense_says_where_it_acts_and_does_what_it_says(spec: str) -> None:
    defense = defenses.create(spec)
    changed = any(
        not np.array_equal(array, arrays(1 + number)[name])
        for number, left in enumerate(rounds(defense))
        for name, array in left.items()
    )
    assert changed == defense.changes_update
    assert defense.describe()
    if defense.acts_on == "server":
        assert "server" in defense.sees()


@pytest.mark.parametrize("name", [name for name in defenses.names() if name != "none"])
def test_a_defense_names_its_source_and_explains_its_parameters(name: str) -> None:
    cls = defenses.get(name)
    assert re.search(r"\b(19|20)\d\d\b", cls.paper), cls.paper
    assert len(cls.__doc__ or "") > len(cls.summary()) + 100
    assert all(field.description for field in cls.model_fields.values())


@pytest.mark.parametrize("spec", SPECS)
def test_a_guarantee_is_none_for_no_round_and_weaker_with_every_round(spec: str) -> None:
    defense = defenses.create(spec)
    spent = [defense.privacy(rounds=count, delta=1e-5) for count in (0, 1, 10)]
    if spent[0] is None:
        assert spent == [None] * 3
        return
    epsilons = [one.epsilon for one in spent if one is not None]
    assert len(epsilons) == 3
    assert epsilons[0] == 0 < epsilons[1] < epsilons[2]
    assert all("against" in one.unit and one.accountant for one in spent if one is not None)
