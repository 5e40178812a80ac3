"""Defenses that compress: what leaves, what is held back, and what noise in L1 guarantees."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_audit.strategies.defenses import defenses
from fl_audit.strategies.defenses._accounting import laplace_epsilon
from fl_audit.strategies.defenses._updates import clip, l1_norm

Memory = dict[str, np.ndarray]


def leave(spec: str, update: object, state: Memory | None = None, seed: int = 0) -> np.ndarray:
    """What of one array's update leaves, from a model of zeros."""
    received = {"w": np.asarray(update, np.float64)}
    sent = {"w": np.zeros_like(received["w"])}
    rng = np.random.default_rng(seed)
    out = defenses.create(spec).apply(sent, received, rng=rng, state={} if state is None else state)
    return out["w"]


def slow_topk(
    updates: list[list[float]], fraction: float, momentum: float
) -> tuple[list[list[float]], list[float]]:
    """Deep gradient compression entry by entry, and what is left of it."""
    size = len(updates[0])
    u, v, sent = [0.0] * size, [0.0] * size, []
    for update in updates:
        for i in range(size):
            u[i] = momentum * u[i] + update[i]
            v[i] = v[i] + u[i]
        order = sorted(range(size), key=lambda i: (abs(v[i]), i), reverse=True)
        chosen = set(order[: math.ceil(fraction * size)])
        sent.append([v[i] if i in chosen else 0.0 for i in range(size)])
        for i in chosen:
            if v[i] != 0:
                u[i] = v[i] = 0.0
    return sent, v


ROUNDS = st.integers(1, 6).flatmap(
    lambda size: st.lists(
        st.lists(st.integers(-8, 8).map(float), min_size=size, max_size=size), min_size=1, max_size=4
    )
)


@settings(deadline=None, max_examples=60)
@given(ROUNDS, st.sampled_from([0.1, 0.3, 0.5, 1.0]), st.sampled_from([0.0, 0.5]))
def test_topk_agrees_with_a_slow_oracle(rounds: list[list[float]], fraction: float, momentum: float) -> None:
    state: Memory = {}
    spec = f"topk:fraction={fraction},momentum={momentum}"
    ours = [leave(spec, update, state).tolist() for update in rounds]
    theirs, left = slow_topk(rounds, fraction, momentum)
    assert ours == theirs
    assert state["v/w"].tolist() == left


def test_topk_by_hand() -> None:
    state: Memory = {}
    assert leave("topk:0.5", [3.0, -1.0, 2.0, -4.0], state).tolist() == [3, 0, 0, -4]
    # what was held back, -1 and 2, is added to the next update
    assert leave("topk:0.5", [1.0, -2.0, 0.0, 0.0], state).tolist() == [0, -3, 2, 0]
    assert leave("topk:0.5", [0.0, 0.0, 0.0, 0.0], state).tolist() == [1, 0, 0, 0]
    # with momentum m an entry that is held back grows by 1 + m
    state = {}
    leave("topk:fraction=0.5,momentum=0.5", [1.0, 8.0], state)
    assert leave("topk:fraction=0.5,momentum=0.5", [1.0, 0.0], state).tolist() == [2.5, 0]
    assert (state["u/w"] == 0).all()


@settings(deadline=None, max_examples=30)
@given(ROUNDS, st.sampled_from(["topk:0.3", "quantize:bits=1,error_feedback=true"]))
def test_error_feedback_loses_nothing(rounds: list[list[float]], spec: str) -> None:
    state: Memory = {}
    left = sum((leave(spec, update, state, seed) for seed, update in enumerate(rounds)), np.zeros(1))
    (held,) = (array for name, array in state.items() if name[0] in "ve")
    np.testing.assert_allclose(left + held, np.sum(rounds, axis=0), atol=1e-9)


def test_topk_ranks_each_array_or_all_of_them() -> None:
    sent = {"a": np.zeros(4), "b": np.zeros(4)}
    received = {"a": np.array([1.0, 2, 3, 4]), "b": np.array([5.0, 6, 7, 8])}
    rng = np.random.default_rng(0)
    layer = defenses.create("topk:0.25").apply(sent, received, rng=rng, state={})
    assert (layer["a"].tolist(), layer["b"].tolist()) == ([0, 0, 0, 4], [0, 0, 0, 8])
    everywhere = defenses.create("topk:fraction=0.25,per=global").apply(sent, received, rng=rng, state={})
    assert (everywhere["a"].tolist(), everywhere["b"].tolist()) == ([0] * 4, [0, 0, 7, 8])


@pytest.mark.parametrize(("bits", "levels"), [(8, 127), (4, 7), (2, 1)])
@pytest.mark.parametrize("norm", ["max", "l2"])
def test_quantising_keeps_to_the_levels_and_is_right_in_the_mean(bits: int, levels: int, norm: str) -> None:
    rng = np.random.default_rng(3)
    update = rng.normal(size=40)
    size = np.abs(update).max() if norm == "max" else np.linalg.norm(update)
    step = size / levels
    draws = np.stack([leave(f"quantize:bits={bits},norm={norm}", update, seed=n) for n in range(4000)])
    multiples = draws[0] / step
    np.testing.assert_allclose(multiples, multiples.round(), atol=1e-6)
    assert np.abs(draws - update).max() < step * (1 + 1e-9)
    assert len(np.unique(draws[0].round(9))) <= 2 * levels + 1
    # each draw is off by at most a step with variance at most step^2 / 4: five standard errors
    assert np.abs(draws.mean(0) - update).max() < 5 * step / 2 / math.sqrt(len(draws))


def test_one_bit_is_sign_and_scale() -> None:
    assert leave("quantize:bits=1", [3.0, -1.0, 2.0, -4.0]).tolist() == [2.5, -2.5, 2.5, -2.5]
    zeros = leave("quantize:bits=1", [4.0] + [0.0] * 999)
    assert set(zeros[1:].tolist()) == {0.004, -0.004}
    assert abs((zeros[1:] > 0).mean() - 0.5) < 0.06
    state: Memory = {}
    leave("quantize:bits=1,error_feedback=true", [3.0, -1.0], state)
    assert state["e/w"].tolist() == [1.0, 1.0]
    assert leave("quantize:bits=1,error_feedback=true", [0.0, 0.0], state).tolist() == [1.0, 1.0]


def test_the_same_seed_rounds_the_same() -> None:
    update = np.random.default_rng(0).normal(size=50)
    assert np.array_equal(leave("quantize:2", update, seed=5), leave("quantize:2", update, seed=5))
    assert not np.array_equal(leave("quantize:2", update, seed=5), leave("quantize:2", update, seed=6))


def test_laplace_clips_in_l1_and_adds_noise_of_the_stated_scale() -> None:
    out = leave("laplace:0.25", np.full(200_000, 3.0), seed=1)
    assert np.abs(out - 3).mean() == pytest.approx(0.25, rel=0.02)  # the scale is the mean magnitude
    assert out.std() == pytest.approx(0.25 * math.sqrt(2), rel=0.02)
    noise = leave("laplace:scale=1e-9,clipping_norm=2", np.array([3.0, -5.0]))
    np.testing.assert_allclose(noise, [0.75, -1.25], atol=1e-7)
    assert l1_norm(clip({"a": np.array([0.5, -0.5])}, 2.0, l1_norm)) == 1.0


def test_laplace_epsilon_is_the_closed_form_and_below_the_sum() -> None:
    # One Laplace mechanism of epsilon e has delta(x) = 1 - exp((x - e) / 2) for x up to e.
    for ratio in (0.5, 2.0, 10.0):
        exact = 1 / ratio + 2 * math.log1p(-1e-5)
        assert exact - 1e-9 <= laplace_epsilon(ratio, 1, 1e-5) <= 1 / ratio
    assert 0.9 < laplace_epsilon(20.0, 40, 1e-5) < 40 / 20
    assert laplace_epsilon(2.0, 0, 1e-5) == 0
    assert laplace_epsilon(1e-4, 3, 1e-5) == 3e4
    spent = defenses.create("laplace:scale=0.8,clipping_norm=0.2").privacy(rounds=1, delta=1e-5)
    assert spent is not None
    # two clipped updates are up to 0.4 apart, the scale is 0.8: epsilon 1/2
    assert spent.epsilon == pytest.approx(0.5, abs=1e-3)
    assert spent.against_server
    assert defenses.create("laplace:0.8").privacy(rounds=1, delta=1e-5) is None
