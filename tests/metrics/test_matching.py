import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_audit.metrics import arrange, match, psnr


def images(n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_a_three_cycle_goes_in_the_right_direction() -> None:
    x = images(3)
    returned = x[torch.tensor([1, 2, 0])]
    matching = match(x, returned)
    assert matching.dtype == torch.int64
    assert matching.tolist() == [2, 0, 1]
    assert torch.equal(arrange(returned, matching), x)
    assert psnr(x, arrange(returned, matching)).tolist() == [100, 100, 100]


@settings(max_examples=50, deadline=None)
@given(order=st.permutations(range(6)), keep=st.integers(0, 6), drop=st.integers(0, 6))
def test_any_order_fewer_or_more(order: list[int], keep: int, drop: int) -> None:
    pool = images(6)
    x, rows = pool[: 6 - drop], torch.tensor(order[:keep], dtype=torch.int64)
    y = pool[rows]
    matching = match(x, y)
    assert matching.shape == (6 - drop,)
    found = [index for index in matching.tolist() if index >= 0]
    assert len(found) == len(set(found)) == min(len(x), len(y))
    for original in range(len(x)):
        if len(y) >= len(x) and original in order[:keep] and set(range(len(x))) <= set(order[:keep]):
            assert int(matching[original]) == order.index(original)
    lined_up = arrange(y, matching)
    assert lined_up.shape == x.shape
    assert lined_up.isnan().flatten(1).all(1).tolist() == (matching < 0).tolist()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_total_error_is_the_least_of_all_assignments(seed: int) -> None:
    x, y = images(4, seed), images(4, seed + 1)
    cost = (x[:, None] - y[None]).square().flatten(2).mean(2)
    least = min(sum(float(cost[i, p[i]]) for i in range(4)) for p in itertools.permutations(range(4)))
    matching = match(x, y)
    assert sum(float(cost[i, matching[i]]) for i in range(4)) == pytest.approx(least)


def test_fewer_reconstructions_go_to_their_own_originals() -> None:
    x = images(4)
    assert match(x, x[[3, 1]]).tolist() == [-1, 1, -1, 0]
    assert match(x[[3, 1]], x).tolist() == [3, 1]
    assert match(x, x[:0]).tolist() == [-1] * 4
    assert match(x[:0], x).tolist() == []


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_reconstruction_is_matched_last(bad: float) -> None:
    x = images(3)
    y = torch.cat([torch.full((1, 1, 8, 8), bad), x[[2, 0]]])
    assert match(x, y).tolist() == [2, 0, 1]
    assert match(x[[0, 2]], y).tolist() == [2, 1]


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \(M, 1, 8, 8\)"):
        match(images(2), torch.rand(2, 3, 8, 8))
