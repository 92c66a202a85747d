"""Top-k and ranking: exact, also under ties."""

from itertools import combinations, permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import one_hot

from weft.discrete import Ranking, TopK

from .optimum import (
    assert_keeps_shape_and_dtype,
    assert_optimal,
    assert_projects,
    assert_ragged_is_a_loop,
    costs_of,
)

SOLVERS = [TopK(), TopK(3), Ranking()]
FIRST = torch.arange(6) < torch.tensor([[6], [4], [3]])  # instances of 6, 4 and 3 entries


def subsets(n, k):
    return torch.stack([one_hot(torch.tensor(s), n).sum(0) for s in combinations(range(n), k)])


@given(st.integers(0, 2**31), st.integers(1, 6), st.data())
def test_top_k_is_the_cheapest_subset(seed, n, data):
    k = data.draw(st.integers(1, n))
    assert_optimal(TopK(k), costs_of(seed, 4, n), subsets(n, k))


@given(st.lists(st.integers(-1, 1), min_size=3, max_size=8), st.integers(1, 3))
def test_top_k_has_k_ones_under_ties_and_takes_the_first(costs, k):
    solution = TopK(k)(torch.tensor(costs).float())
    first = sorted(range(len(costs)), key=lambda entry: (costs[entry], entry))[:k]
    assert torch.equal(solution, one_hot(torch.tensor(first), len(costs)).sum(0).float())


@given(st.integers(0, 2**31), st.integers(1, 6))
def test_ranking_is_the_cheapest_permutation(seed, n):
    members = torch.tensor(list(permutations(range(1, n + 1))))
    assert_optimal(Ranking(), costs_of(seed, 4, n), members)


def test_ranking_gives_the_largest_rank_one_and_equal_ones_ranks_in_order():
    assert Ranking()(torch.tensor([1.0, 5.0, 1.0, 3.0, 5.0])).tolist() == [4, 1, 5, 3, 2]


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_shape_and_dtype_are_kept(solver):
    assert_keeps_shape_and_dtype(solver, 6)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_a_ragged_batch_is_a_loop(solver):
    assert_ragged_is_a_loop(solver, costs_of(1, 3, 6), FIRST)
    assert_ragged_is_a_loop(solver, costs_of(1, 3, 6), FIRST.flip(1))


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@pytest.mark.parametrize("mask", [None, FIRST], ids=["whole", "masked"])
def test_the_projection_is_that_of_the_equalities(solver, mask):
    assert_projects(solver, costs_of(2, 3, 6), mask)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_the_solver_runs_on_the_device_of_the_costs(solver, device):
    costs = costs_of(3, 4, 6)
    solution = solver(costs.to(device))
    assert solution.device.type == device.type
    assert torch.equal(solution.cpu(), solver(costs))


def test_a_selection_larger_than_its_instance_is_refused_by_name():
    with pytest.raises(
        ValueError, match="at least k = 4 entries, got 3 in instance 2 of the batch"
    ):
        TopK(4)(costs_of(4, 3, 6), FIRST)
    with pytest.raises(ValueError, match="at least k = 7 entries, got 6 in instance 0"):
        TopK(7)(costs_of(4, 3, 6))


@pytest.mark.parametrize("k", [0, -1, 1.5])
def test_nothing_to_select_is_refused(k):
    with pytest.raises(ValueError, match=f"`k` must be a whole number, 1 or more, got {k}"):
        TopK(k)
