"""Stacks: several defenses as one, left to right."""

import re
from typing import Any

import numpy as np
import pytest

from fl_audit.core.errors import ConfigError
from fl_audit.core.units import Defense, PrivacySpent
from fl_audit.run.folder import slugs
from fl_audit.strategies.defenses import defenses

SENT = {"w": np.zeros((3, 4)), "n": np.asarray(2)}
RECEIVED = {"w": np.arange(12.0).reshape(3, 4) - 6, "n": np.asarray(3)}


def apply(spec: str, received: dict[str, np.ndarray], rng: np.random.Generator, **state: Any) -> Any:
    return defenses.create(spec).apply(SENT, received, rng=rng, state=state)


def test_members_act_left_to_right_with_one_generator() -> None:
    members = ["clip:5", "topk:0.5", "noise:0.1", "quantize:4"]
    rng = np.random.default_rng(4)
    expected = RECEIVED
    for member in members:
        expected = apply(member, expected, rng)
    found = apply("+".join(members), RECEIVED, np.random.default_rng(4))
    assert all(np.array_equal(found[name], array) for name, array in expected.items())
    other = apply("topk:0.5+clip:5", RECEIVED, rng)
    assert not np.array_equal(other["w"], apply("clip:5+topk:0.5", RECEIVED, rng)["w"])


def test_each_member_remembers_for_itself() -> None:
    stack = defenses.create("topk:0.5+topk:0.25+quantize:bits=1,error_feedback=true")
    states: list[dict[str, np.ndarray]] = [{}, {}, {}]
    memory: dict[str, np.ndarray] = {}
    for number in range(3):
        update = {**RECEIVED, "w": RECEIVED["w"] + number}
        found = stack.apply(SENT, update, rng=np.random.default_rng(number), state=memory)
        rng = np.random.default_rng(number)
        for spec, state in zip(
            ("topk:0.5", "topk:0.25", "quantize:bits=1,error_feedback=true"), states, strict=True
        ):
            update = defenses.create(spec).apply(SENT, update, rng=rng, state=state)
        assert np.array_equal(found["w"], update["w"])
    assert sorted(memory) == ["0/v/w", "1/v/w", "2/e/w"]


def test_where_a_member_refuses_nothing_is_remembered() -> None:
    bad = {**RECEIVED, "w": np.full((3, 4), 1e308)}
    memory: dict[str, np.ndarray] = {}
    with pytest.raises(ValueError, match="must not leave"), np.errstate(over="ignore"):
        defenses.create("topk:0.5+clip:1").apply(SENT, bad, rng=np.random.default_rng(0), state=memory)
    assert memory == {}


def spent(spec: str, rounds: int = 3) -> PrivacySpent | None:
    return defenses.create(spec).privacy(rounds=rounds, delta=1e-5)


def test_post_processing_and_what_comes_before_keep_epsilon() -> None:
    alone = spent("dp")
    assert alone is not None
    for spec in (
        "dp+prune:0.9",
        "prune:0.9+dp",
        "topk:0.1+dp+quantize:4",
        "dp+topk:0.1",
        "noise:1+dp+clip:1",
    ):
        assert spent(spec) == alone
    for spec in ("clip:1+prune:0.9", "clip:1+noise:1", "noise:1+laplace:1", "topk:0.1+secagg"):
        assert spent(spec) is None  # noise after a clip that is not its own is not accounted


def test_of_several_guarantees_the_best_is_stated() -> None:
    weak, strong = spent("dp:1"), spent("dp:10")
    assert weak is not None
    assert strong is not None
    assert weak.epsilon > strong.epsilon
    assert spent("dp:1+dp:10") == spent("dp:10+dp:1") == strong
    central = spent("dp-client:100")
    assert central is not None
    assert central.epsilon < weak.epsilon
    assert spent("dp:1+dp-client:100") == weak  # holds against the server too
    assert spent("topk:0.1+dp-server:100") == spent("dp-server:100") == central


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("clip:1+none", "'none' in a stack does nothing"),
        ("secagg+clip:1", r"'secagg' acts at the server.*put it last, clip\+secagg"),
        ("dp-client+quantize:4", "put it last"),  # rounding could lengthen what was clipped
        ("secagg+dp-server", "'dp-server' needs each client's update at the server, which 'secagg' hides"),
        ("clip:1+prun:0.9", "Did you mean 'prune'"),
        ("clip:1+prune:2", "fraction"),
        ("clip:1+", "norm"),
        ("+clip:1", "unknown defense ''"),
    ],
)
def test_impossible_stacks_are_refused(spec: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        defenses.create(spec)
    assert "members" not in str(caught.value)


def test_the_plus_of_a_number_is_no_stack() -> None:
    assert defenses.create("noise:1e+3") == defenses.create("noise:1000")
    stack = defenses.create("clip:1e+2 + noise:1e+3")
    assert stack.params() == {"clip.norm": 100.0, "noise.sigma": 1000.0}
    assert defenses.create("clip:1+clip:2").params() == {"clip-1.norm": 1.0, "clip-2.norm": 2.0}
    assert defenses.create("clip:1+prune:0.9").describe().count(" Then: ") == 1


def test_folders_of_stacks_are_safe_and_different() -> None:
    specs = ["clip:1+prune:0.9", "clip:1 + prune:0.9", "clip:1-prune:0.9", "+".join(["noise:0.001"] * 30)]
    named = slugs([*specs, "noise:0.001+" + specs[-1], "clip:1+../../x", "secagg"])
    assert len(set(named.values())) == len(named)
    assert all(re.fullmatch(r"[A-Za-z0-9_=][A-Za-z0-9._=-]{0,80}", slug) for slug in named.values())
    assert named["clip:1+prune:0.9"] == "clip-1-prune-0.9"


def test_strategies_are_wrapped_in_order() -> None:
    class Outer(Defense):
        mark: str

        def wrap_strategy(self, strategy: Any, *, clients: int, sampled: int) -> Any:
            return f"{self.mark}{clients}{sampled}({strategy})"

    from fl_audit.strategies.defenses._stack import Stack

    stack = Stack(members=(Outer(mark="a"), Outer(mark="b")))
    assert stack.wrap_strategy("s", clients=5, sampled=2) == "b52(a52(s))"
    assert stack.changes_update
    hidden = defenses.create("clip:1+secagg")
    assert (hidden.aggregates, hidden.equal_weights, hidden.changes_update) == (True, False, True)
    assert defenses.create("dp-client+secagg").equal_weights
    assert not defenses.create("secagg").changes_update
    assert "mean" in hidden.sees()
