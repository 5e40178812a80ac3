"""Priors on pixels and on restarts against loops."""

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fl_audit.attacks.group_consistency import GroupConsistency, consensus, shifts
from fl_audit.attacks.priors import Norm, TotalVariation, opponent_variation, squared_norm, total_variation
from fl_audit.attacks.problem import Problem, prepare
from fl_audit.core.progress import Progress
from tests.attacks.cases import CPU, Case, make_case


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 2), st.sampled_from([1, 3]), st.integers(1, 4), st.integers(1, 4))
def test_opponents_equal_a_loop_over_pixels(seed: int, n: int, c: int, h: int, w: int) -> None:
    images = random(2, n, c, h, w, seed=seed)
    for row in range(2):
        down, right = [], []
        for i in range(n):
            planes = [images[row, i, k].tolist() for k in range(c)]
            for a, b in combinations(range(c), 2):
                planes.append([[planes[a][y][x] - planes[b][y][x] for x in range(w)] for y in range(h)])
            for plane in planes:
                down += [abs(plane[y + 1][x] - plane[y][x]) for y in range(h - 1) for x in range(w)]
                right += [abs(plane[y][x + 1] - plane[y][x]) for y in range(h) for x in range(w - 1)]
        expected = sum(down) / max(len(down), 1) + sum(right) / max(len(right), 1)
        assert float(opponent_variation(images)[row]) == pytest.approx(expected, abs=1e-12)


def test_a_grey_edge_costs_less_than_a_coloured_one() -> None:
    grey = torch.zeros(1, 1, 3, 4, 4)
    grey[..., 2:] = 0.5
    coloured = grey.clone()
    coloured[:, :, 0] = 0.5 - coloured[:, :, 0]
    assert torch.equal(total_variation(grey), total_variation(coloured))
    assert float(opponent_variation(grey)) < float(opponent_variation(coloured))


def test_the_weight_is_a_factor_and_the_norm_is_a_mean_square() -> None:
    case = make_case()
    images = random(2, 1, 1, 3, 3)
    pixels = images[1].flatten().tolist()
    assert float(squared_norm(images)[1]) == pytest.approx(sum(p * p for p in pixels) / 9)
    bound = Norm(2.0, centre=0.5).bind([problem_of(case)], 2)(images)
    assert float(bound[1]) == pytest.approx(2 * sum((p - 0.5) ** 2 for p in pixels) / 9)
    for colours, function in (("channels", total_variation), ("opponents", opponent_variation)):
        prior = TotalVariation(3.0, colours)  # type: ignore[arg-type]
        assert torch.equal(prior.bind([problem_of(case)], 2)(images), 3 * function(images))


def problem_of(case: Case) -> Problem:
    return prepare(case.update, case.knowledge, seed=0, who="t", device=CPU, progress=Progress())


def test_group_consistency_is_the_distance_to_the_mean_of_the_clients_restarts() -> None:
    problem = problem_of(make_case(labels=(0, 1)))
    images = random(6, 2, 1, 8, 8)
    values = GroupConsistency(3.0).bind([problem] * 2, 3)(images)
    for row in range(6):
        mates = range(row // 3 * 3, row // 3 * 3 + 3)
        mean = sum(images[mate] for mate in mates) / 3
        assert isinstance(mean, Tensor)
        assert float(values[row]) == pytest.approx(3 * float((images[row] - mean).square().mean()))
    assert GroupConsistency(3.0).bind([problem] * 6, 1)(images).tolist() == [0.0] * 6


def test_restarts_pull_each_other_but_the_consensus_is_fixed() -> None:
    problem = problem_of(make_case())
    images = random(2, 1, 1, 8, 8).requires_grad_()
    penalty = GroupConsistency(1.0).bind([problem], 2)(images)
    (slope,) = torch.autograd.grad(penalty.sum(), images)
    mean = images.detach().mean(0, keepdim=True)
    assert torch.allclose(slope, 2 * (images.detach() - mean) / 64)


@pytest.mark.parametrize("move", [(0, 0), (2, -1), (-3, 3)])
def test_a_shift_is_found_and_shifted_restarts_agree_once_registered(move: tuple[int, int]) -> None:
    image = random(3, 9, 8)
    moved = image.roll(move, (-2, -1))
    assert shifts(moved, image, 3).tolist() == [-move[0], -move[1]]
    restarts = torch.stack([image, image, moved])[None, :, None]
    agreed = consensus(restarts, 3)
    assert torch.allclose(agreed.expand_as(restarts), restarts)
    assert move == (0, 0) or not torch.allclose(consensus(restarts).expand_as(restarts), restarts)
