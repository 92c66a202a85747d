"""Assignments: square, rectangular, with absent sides and forbidden pairs."""

from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from weft.discrete import Assignment

from .optimum import (
    assert_keeps_shape_and_dtype,
    assert_optimal,
    assert_projects,
    assert_ragged_is_a_loop,
    costs_of,
)


def assignments(rows, columns):
    if rows > columns:
        return assignments(columns, rows).mT
    chosen = torch.tensor(list(permutations(range(columns), rows)))
    return torch.nn.functional.one_hot(chosen, columns)


def blocks(*sizes, shape=(5, 5)):
    rows, columns = torch.arange(shape[0])[:, None], torch.arange(shape[1])
    return torch.stack([(rows < r) & (columns < c) for r, c in sizes])


@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 5))
def test_the_assignment_is_the_cheapest(seed, rows, columns):
    members = assignments(rows, columns).flatten(1)
    assert_optimal(Assignment(), costs_of(seed, 3, rows, columns), members)


@given(st.integers(0, 2**31))
def test_forbidden_pairs_are_not_assigned(seed):
    costs = costs_of(seed, 4, 4)
    mask = (costs_of(seed + 1, 4, 4) > 0) | torch.eye(4).bool()  # one assignment at least
    solution = Assignment()(costs, mask)
    members = assignments(4, 4).double()
    allowed = members[~(members * ~mask).flatten(1).any(1)]
    assert_close((costs * solution).sum(), (allowed * costs).sum((1, 2)).min())
    assert not solution[~mask].any()


def test_ties_fall_the_same_way_each_time():
    solution = Assignment()(torch.zeros(3, 4, 4))
    assert torch.equal(solution[0], solution[2])
    assert torch.equal(solution, Assignment()(torch.zeros(3, 4, 4)))


def test_shape_and_dtype_are_kept():
    assert_keeps_shape_and_dtype(Assignment(), 4, 4)
    assert_keeps_shape_and_dtype(Assignment(), 3, 5)


def test_a_ragged_batch_is_a_loop():
    assert_ragged_is_a_loop(
        Assignment(), costs_of(1, 4, 5, 5), blocks((5, 5), (3, 3), (2, 4), (4, 1))
    )


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_nothing(threads, monkeypatch):
    monkeypatch.setattr("weft.discrete._solvers.host._WORTH_A_THREAD", 0.0)
    costs = costs_of(2, 7, 6, 6)
    expected = Assignment()(costs)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(Assignment()(costs), expected)
        mask = torch.ones(7, 6, 6).bool()
        mask[5, 0] = mask[5, :, 0] = False
        mask[5, 1, 1:] = False  # a present row without a partner
        mask[5, 1, 0] = True
        mask[5, 2, 1:], mask[5, 2, 0] = False, True
        with pytest.raises(ValueError, match="instance 5 of the batch has none"):
            Assignment()(costs, mask)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (5, 3), (1, 1), (1, 4)])
def test_the_projection_is_that_of_the_equalities(shape):
    assert_projects(Assignment(), costs_of(3, 2, *shape))


def test_double_centring_leaves_no_mean_in_rows_and_columns():
    projected = Assignment().project(costs_of(4, 2, 5, 5))
    assert_close(projected.sum(-1), torch.zeros(2, 5).double())
    assert_close(projected.sum(-2), torch.zeros(2, 5).double())


def test_a_ragged_projection_is_a_loop():
    sizes = ((5, 5), (3, 3), (2, 4), (4, 1))
    costs, mask = costs_of(5, 4, 5, 5), blocks(*sizes)
    projected = Assignment().project(costs, mask)
    assert not projected[~mask].any()
    for instance, got, (rows, columns) in zip(costs, projected, sizes, strict=True):
        alone = Assignment().project(instance[:rows, :columns])
        assert_close(got[:rows, :columns], alone)


def test_the_projection_with_forbidden_pairs_is_that_of_the_equalities():
    mask = torch.ones(2, 4, 4, dtype=torch.bool)
    mask[0, 0, 1] = mask[1, 2, :2] = False
    assert_projects(Assignment(), costs_of(6, 2, 4, 4), mask)


def test_the_projection_of_a_ragged_batch_with_a_forbidden_pair_is_a_loop():
    mask = blocks((5, 5), (3, 3), (2, 4))
    mask[1, 0, 0] = False
    costs = costs_of(7, 3, 5, 5)
    projected = Assignment().project(costs, mask)
    assert_close(projected[0], Assignment().project(costs[0]))
    assert_close(projected[2, :2, :4], Assignment().project(costs[2, :2, :4]))
    alone = Assignment().project(costs[1, :3, :3], mask[1, :3, :3])
    assert_close(projected[1, :3, :3], alone)


@pytest.mark.parametrize("masked", [False, True])
def test_the_projection_is_differentiable(masked):
    costs = costs_of(8, 2, 4, 4).requires_grad_()
    mask = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.8
    assert torch.autograd.gradcheck(
        lambda costs: Assignment().project(costs, mask if masked else None), costs
    )


def test_a_side_without_an_assignment_is_refused_by_name():
    mask = torch.ones(3, 3, 3, dtype=torch.bool)
    mask[1, :2, 1:] = False  # two rows, one column for both
    with pytest.raises(ValueError, match="instance 1 of the batch has none for its 3 rows and 3"):
        Assignment()(torch.zeros(3, 3, 3), mask)
