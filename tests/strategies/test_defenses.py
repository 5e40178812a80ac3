import math
import subprocess
import sys

import numpy as np
import pytest
from flwr.supercore import differential_privacy as flower
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from fl_audit.core.errors import ConfigError
from fl_audit.strategies.defenses import defenses
from fl_audit.strategies.defenses._accounting import gaussian_epsilon
from fl_audit.strategies.defenses._updates import add_gaussian, clip, l2_norm, prune_smallest, update_of

ALL = [
    "none",
    "dp",
    "noise:0.1",
    "clip:0.5",
    "prune:0.5",
    "prune:fraction=0.5,per=global",
    "laplace:0.1",
    "laplace:scale=0.1,clipping_norm=0.5",
    "topk:0.3",
    "topk:fraction=0.3,momentum=0.9,per=global",
    "quantize",
    "quantize:bits=4,norm=l2",
    "quantize:bits=1,error_feedback=true",
    "dp-server",
    "dp-client",
    "secagg",
    "clip:1+prune:0.5",
    "topk:0.3+clip:0.5+noise:0.1",
    "prune:0.5+dp-client+secagg",
]
TOUCHING = [spec for spec in ALL if defenses.create(spec).changes_update]
NOISY = ("dp", "noise:0.1", "laplace", "topk:0.3+clip:0.5+noise:0.1")


def arrays(seed: int = 0, scale: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "weight": (scale * rng.normal(size=(6, 5))).astype(np.float32),
        "scalar": np.asarray(scale * rng.normal(), np.float32),
        "double": scale * rng.normal(size=7),
        "counter": np.asarray(seed, np.int64),
        "counters": np.arange(3) + seed,
    }


def floats(values: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The well-behaved part, as Flower's functions take it."""
    return [value.astype(np.float64) for name, value in values.items() if name in ("weight", "double")]


@pytest.mark.parametrize("spec", ALL)
def test_names_shapes_and_dtypes_stay_and_arguments_are_not_changed(spec: str) -> None:
    sent, received = arrays(0), arrays(1)
    out = defenses.create(spec).apply(sent, received, rng=np.random.default_rng(0), state={})
    assert [(name, a.shape, a.dtype) for name, a in out.items()] == [
        (name, a.shape, a.dtype) for name, a in received.items()
    ]
    for values, seed in ((sent, 0), (received, 1)):
        assert all(np.array_equal(values[name], array) for name, array in arrays(seed).items())


@pytest.mark.parametrize("spec", ALL)
def test_a_zero_update_and_0d_arrays_are_no_exception(spec: str) -> None:
    sent = arrays(0)
    out = defenses.create(spec).apply(sent, arrays(0), rng=np.random.default_rng(0), state={})
    assert all(np.isfinite(array).all() for array in out.values())
    moved = bool(out["scalar"] != sent["scalar"])
    noisy = spec.startswith(NOISY) and not spec.startswith(("dp-server", "dp-client"))
    assert moved == noisy  # Flower's own mods leave a 0-d parameter bare


@pytest.mark.parametrize(
    "spec", ["dp", "clip:0.5", "laplace:scale=1,clipping_norm=1", "topk:0.5", "quantize:1", "dp-client"]
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_cannot_be_clipped_or_compressed_does_not_leave(spec: str, value: float) -> None:
    bad = arrays(1)
    bad["weight"][0, 0] = value
    state: dict[str, np.ndarray] = {}
    with pytest.raises(ValueError, match="must not leave"):
        defenses.create(spec).apply(arrays(0), bad, rng=np.random.default_rng(0), state=state)
    assert state == {}


@pytest.mark.parametrize("spec", TOUCHING)
def test_an_update_of_other_arrays_does_not_leave(spec: str) -> None:
    missing = {name: array for name, array in arrays(1).items() if name != "double"}
    extra = arrays(1) | {"more": np.zeros(2)}
    other = arrays(1) | {"weight": np.zeros((5, 6), np.float32)}
    for received, why in ((missing, "missing"), (extra, "extra"), (other, "shape")):
        with pytest.raises(ValueError, match=why):
            defenses.create(spec).apply(arrays(0), received, rng=np.random.default_rng(0), state={})


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.floats(0.01, 100), st.floats(0.01, 20))
def test_clipping_agrees_with_flower(seed: int, scale: float, limit: float) -> None:
    sent, received = arrays(seed), arrays(seed + 1, scale)
    ours = clip(
        {"w": floats(received)[0] - floats(sent)[0], "d": floats(received)[1] - floats(sent)[1]}, limit
    )
    theirs = floats(received)
    flower.compute_clip_model_update(theirs, floats(sent), limit)
    for mine, other, start in zip(ours.values(), theirs, floats(sent), strict=True):
        np.testing.assert_allclose(mine, other - start, rtol=1e-9, atol=1e-9)


def test_noise_agrees_with_flower_draw_for_draw() -> None:
    values = {"w": np.zeros((40, 50)), "d": np.zeros(7)}

    class LegacyNormal(np.random.Generator):
        """Our generator interface over the global generator that Flower draws from."""

        def normal(self, *args: object) -> np.ndarray:  # type: ignore[override]
            drawn: np.ndarray = np.random.normal(*args)  # type: ignore[call-overload]
            return drawn

    state = np.random.get_state()
    try:
        np.random.seed(5)
        ours = add_gaussian(values, 0.3, LegacyNormal(np.random.PCG64(0)))
        np.random.seed(5)
        theirs = [array.copy() for array in values.values()]
        flower.add_gaussian_noise_inplace(theirs, 0.3)
    finally:
        np.random.set_state(state)
    assert all(np.array_equal(mine, other) for mine, other in zip(ours.values(), theirs, strict=True))


def test_dp_clips_then_adds_noise_of_the_stated_size() -> None:
    sent = {"w": np.zeros(200_000), "n": np.asarray(3)}
    received = {"w": np.full(200_000, 5.0), "n": np.asarray(9)}
    defense = defenses.create("dp:noise_multiplier=1.5,clipping_norm=2.0")
    out = defense.apply(sent, received, rng=np.random.default_rng(1), state={})
    assert out["w"].std() == pytest.approx(3.0, rel=0.01)
    assert out["w"].mean() == pytest.approx(2.0 / math.sqrt(200_000), abs=0.03)
    assert out["n"] == 3  # an integer that trained with the data would leave it in clear
    again = defense.apply(sent, received, rng=np.random.default_rng(1), state={})
    assert np.array_equal(out["w"], again["w"])


def test_noise_and_clip_do_what_they_say() -> None:
    sent, received = {"w": np.zeros(100_000)}, {"w": np.ones(100_000)}
    noised = defenses.create("noise:0.25").apply(sent, received, rng=np.random.default_rng(2), state={})
    assert noised["w"].std() == pytest.approx(0.25, rel=0.02)
    assert noised["w"].mean() == pytest.approx(1.0, abs=0.01)
    clipped = defenses.create("clip:2").apply(sent, received, rng=np.random.default_rng(2), state={})
    assert l2_norm(update_of(sent, clipped)) == pytest.approx(2.0)
    short = {"w": received["w"] * 1e-3}
    assert np.array_equal(
        defenses.create("clip:2").apply(sent, short, rng=np.random.default_rng(2), state={})["w"], short["w"]
    )


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from([0.0, 1.0, -1.0, 2.5, -3.0]), min_size=1, max_size=30), st.floats(0, 0.99))
def test_pruning_agrees_with_a_slow_oracle(values: list[float], fraction: float) -> None:
    pruned = prune_smallest(np.asarray(values), fraction)
    order = sorted(range(len(values)), key=lambda i: (abs(values[i]), i))
    gone = set(order[: int(fraction * len(values))])
    assert pruned.tolist() == [0.0 if i in gone else value for i, value in enumerate(values)]


def test_pruning_per_layer_and_global() -> None:
    sent = {"small": np.zeros(4), "large": np.zeros(4)}
    received = {"small": np.array([0.1, 0.2, 0.3, 0.4]), "large": np.array([1.0, -2.0, 3.0, 4.0])}
    rng = np.random.default_rng(0)
    layer = defenses.create("prune:0.5").apply(sent, received, rng=rng, state={})
    assert layer["small"].tolist() == [0, 0, 0.3, 0.4]
    assert layer["large"].tolist() == [0, 0, 3, 4]
    everywhere = defenses.create("prune:fraction=0.5,per=global").apply(sent, received, rng=rng, state={})
    assert everywhere["small"].tolist() == [0, 0, 0, 0]
    assert everywhere["large"].tolist() == [1, -2, 3, 4]


def exact_epsilon(mean: float, delta: float) -> float:
    """Balle and Wang, "Improving the Gaussian Mechanism", ICML 2018, theorem 8, solved for epsilon."""

    def excess(epsilon: float) -> float:
        tail = epsilon + norm.logcdf(-epsilon / mean - mean / 2)
        return float(norm.cdf(-epsilon / mean + mean / 2) - math.exp(tail) - delta)

    return float(brentq(excess, 0, mean * mean + 20 * mean + 10))


@pytest.mark.parametrize(("multiplier", "rounds"), [(2.0, 1), (2.0, 3), (1.0, 10), (10.0, 50), (0.2, 2)])
def test_epsilon_is_the_closed_form_from_above(multiplier: float, rounds: int) -> None:
    spent = defenses.create(f"dp:{multiplier}").privacy(rounds=rounds, delta=1e-5)
    assert spent is not None
    # two clipped updates are up to 2 C apart, the noise is multiplier * C
    exact = exact_epsilon(math.sqrt(rounds) * 2 / multiplier, 1e-5)
    assert exact - 1e-9 <= spent.epsilon <= exact * 1.001 + 1e-3


def test_epsilon_by_hand_and_at_the_edges() -> None:
    assert gaussian_epsilon(1.0, 1, 1e-5) == pytest.approx(4.3772, abs=1e-3)  # the closed form for mean 1
    assert gaussian_epsilon(1.0, 0, 1e-5) == 0
    assert gaussian_epsilon(1e-4, 10, 1e-5) == math.inf
    # The classical formula, valid for epsilon up to 1, is a looser bound.
    ratio = math.sqrt(2 * math.log(1.25e5)) / 0.9
    assert gaussian_epsilon(ratio, 1, 1e-5) < 0.9
    for spec in (
        "none",
        "noise:1",
        "clip:1",
        "prune:0.9",
        "topk:0.1",
        "quantize",
        "secagg",
        "clip:1+noise:1",
    ):
        assert defenses.create(spec).privacy(rounds=1, delta=1e-5) is None
    with pytest.raises(ValueError, match="delta"):
        gaussian_epsilon(1.0, 1, 0.0)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("dp:noise_multiplier=-1", "noise_multiplier: .*greater than 0"),
        ("dp:clipping_norm=0", "clipping_norm"),
        ("noise", "sigma is required"),
        ("noise:-1", "sigma"),
        ("prune:1.5", "fraction"),
        ("prune:0.5,per=row", "per"),
        ("clip:nan", "norm"),
        ("laplace:scale=1,clipping_norm=0", "clipping_norm"),
        ("topk:0", "fraction"),
        ("topk:fraction=0.1,momentum=1", "momentum"),
        ("quantize:bits=0", "bits"),
        ("quantize:bits=4,norm=l1", "norm"),
        ("dp-server:0", "noise_multiplier"),
        ("dp-client:clipping_norm=-1", "clipping_norm"),
        ("secagg:1", "expected key=value"),
        ("dpp", "Did you mean 'dp'"),
        ("dp:sigma=1", "unknown parameter 'sigma'"),
    ],
)
def test_impossible_parameters_are_refused(spec: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        defenses.create(spec)


def test_defenses_import_without_flower() -> None:
    code = (
        "import sys; sys.modules['flwr'] = None\n"
        "from fl_audit.strategies.defenses import defenses\n"
        "print(defenses.names())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "dp" in done.stdout
