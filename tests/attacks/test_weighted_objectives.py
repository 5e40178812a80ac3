"""Objectives that weigh layers or entries, and rows of several clients, against loops over numbers."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fl_audit.attacks.known_entries import KnownEntries, looks_sparsified
from fl_audit.attacks.layer_weights import Balanced, Depth, LayerCosine, LayerDistance, depth_weights
from fl_audit.attacks.objectives import Cosine, FittedSquaredError, Objective, SquaredError
from fl_audit.core.seeding import seeded_globals

SHAPES = ((3, 2), (4,), (), (2, 1, 2, 2))

OBJECTIVES: dict[str, Objective] = {
    "cosine": Cosine(),
    "squared error": SquaredError(),
    "fitted": FittedSquaredError(),
    "layer cosine": LayerCosine("linear"),
    "layer distance": LayerDistance(),
    "balanced": Balanced(Cosine(), 0.5),
    "balanced squares": Balanced(SquaredError(), 0.25),
    "known entries": KnownEntries(Cosine()),
    "known entries of layers": KnownEntries(LayerCosine()),
}


def tensors(seed: int, rows: int | None = None) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lead = () if rows is None else (rows,)
    return [torch.randn((*lead, *shape), generator=generator, dtype=torch.float64) for shape in SHAPES]


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def flat(parts: Sequence[Tensor]) -> list[float]:
    return [value for part in parts for value in part.reshape(-1).tolist()]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_rows_of_several_clients_equal_each_client_alone(name: str) -> None:
    objective, simulated, observed = OBJECTIVES[name], tensors(0, 3), tensors(1, 3)
    observed[0][0, 1] = 0.0
    together = objective(simulated, observed)
    alone = [objective([s[row : row + 1] for s in simulated], [o[row] for o in observed]) for row in range(3)]
    assert together.shape == (3,)
    assert torch.allclose(together, torch.cat(alone), atol=1e-12)
    shared = objective(simulated, [o[1] for o in observed])
    assert torch.allclose(shared, objective(simulated, [o[1].expand_as(o) for o in observed]), atol=1e-12)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_slope_is_that_of_finite_differences(name: str) -> None:
    objective, observed = OBJECTIVES[name], tensors(1, 2)
    near = [(0.3 * s + o).requires_grad_() for s, o in zip(tensors(2, 2), observed, strict=True)]
    assert torch.autograd.gradcheck(lambda *parts: objective(parts, observed), near)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["equal", "linear", "exponential"]))
def test_layer_cosine_is_the_weighted_mean_of_angles(seed: int, kind: Depth) -> None:
    simulated, observed = tensors(seed, 1), tensors(seed + 1)
    weights: list[float] = {
        "equal": [1.0, 1.0, 1.0, 1.0],
        "linear": [1.0, 2.0, 3.0, 4.0],
        "exponential": [1.0, math.e, math.e**2, math.e**3],
    }[kind]
    angles = [1 - cosine(flat([s]), flat([o])) for s, o in zip(simulated, observed, strict=True)]
    expected = sum(w * angle for w, angle in zip(weights, angles, strict=True)) / sum(weights)
    assert float(LayerCosine(kind)(simulated, observed)) == pytest.approx(expected, abs=1e-12)
    assert depth_weights(kind, 4) == pytest.approx([weight / weights[-1] for weight in weights])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.5, 1.0]))
def test_balanced_scales_each_tensor_by_its_observed_norm(seed: int, power: float) -> None:
    simulated, observed = tensors(seed, 1), tensors(seed + 1)
    s, o = (
        [
            value / math.hypot(*flat([seen])) ** power
            for part, seen in zip(parts, observed, strict=True)
            for value in flat([part])
        ]
        for parts in (simulated, observed)
    )
    assert float(Balanced(Cosine(), power)(simulated, observed)) == pytest.approx(1 - cosine(s, o), abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1.0, 7.0]))
def test_layer_distance_sums_distances_of_unit_updates(seed: int, scale: float) -> None:
    simulated, observed = tensors(seed, 1), tensors(seed + 1)
    size, seen = math.hypot(*flat(simulated)), math.hypot(*flat(observed))
    apart = [
        math.dist([a / size for a in flat([s])], [b / seen for b in flat([o])])
        for s, o in zip(simulated, observed, strict=True)
    ]
    expected = sum(apart) / sum(math.hypot(*flat([o])) / seen for o in observed)
    found = LayerDistance()([scale * s for s in simulated], observed)
    assert float(found) == pytest.approx(expected, abs=1e-9)


def test_a_tensor_of_zeros_has_no_say() -> None:
    simulated, observed = tensors(0, 1), tensors(1)
    observed[1] = torch.zeros_like(observed[1])
    kept = [0, 2, 3]
    for objective in (Balanced(Cosine(), 1.0), KnownEntries(Cosine())):
        expected = objective([simulated[k] for k in kept], [observed[k] for k in kept])
        assert torch.allclose(objective(simulated, observed), expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_entries_that_were_not_sent_do_not_count(seed: int) -> None:
    simulated, observed = tensors(seed, 1), tensors(seed + 1)
    observed[0][0, 0] = observed[1][2] = 0.0
    pairs = [(a, b) for a, b in zip(flat(simulated), flat(observed), strict=True) if b != 0]
    assert len(pairs) == len(flat(observed)) - 2
    s, o = [a for a, _ in pairs], [b for _, b in pairs]
    assert float(KnownEntries(Cosine())(simulated, observed)) == pytest.approx(1 - cosine(s, o), abs=1e-12)
    error = sum((a - b) ** 2 for a, b in pairs) / math.hypot(*o) ** 2
    assert float(KnownEntries(SquaredError())(simulated, observed)) == pytest.approx(error, rel=1e-10)


def gradient(images: int, activation: Callable[[], nn.Module]) -> list[Tensor]:
    """The gradient of a real net: with ReLU, one image leaves exact zeros all over it."""
    with seeded_globals(3, "weights"):
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2),
            activation(),
            nn.Flatten(),
            nn.Linear(72, 64),
            activation(),
            nn.Linear(64, 10),
        )
        inputs = torch.rand(images, 1, 8, 8)
    loss = cross_entropy(model(inputs), torch.arange(images))
    return list(torch.autograd.grad(loss, list(model.parameters())))


def pruned(parts: list[Tensor], fraction: float) -> list[Tensor]:
    """Each tensor with its smallest entries set to zero."""
    limits = [part.abs().flatten().kthvalue(max(int(fraction * part.numel()), 1)).values for part in parts]
    return [torch.where(part.abs() > limit, part, 0) for part, limit in zip(parts, limits, strict=True)]


@pytest.mark.parametrize("images", [1, 4])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Sigmoid])
def test_pruning_is_seen_and_dead_units_are_not_taken_for_it(
    activation: Callable[[], nn.Module], images: int
) -> None:
    whole = gradient(images, activation)
    assert looks_sparsified(whole) is False
    share = float((torch.cat([part.flatten() for part in whole]) == 0).float().mean())
    assert share > 0.5 or (activation, images) != (nn.ReLU, 1)
    for fraction in (0.9, 0.97) if share > 0.5 else (0.5, 0.9, 0.97):
        assert looks_sparsified(pruned(whole, fraction)) is True, fraction
