"""A solver keeps its contract for any batch, and its projection is that of its equalities."""

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from weft.discrete import Assignment, FunctionSolver, Ranking, Solver, TopK

seeds = st.integers(0, 2**31)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cheapest(costs, mask=None):
    """The entry of least cost, of those in the mask."""
    costs = costs if mask is None else costs.where(mask, torch.inf)
    return torch.nn.functional.one_hot(costs.argmin(-1), costs.shape[-1])


class Positive(Solver):
    nonnegative = True

    def solve(self, costs, mask):
        return cheapest(costs, mask)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,), (2, 0)])
def test_a_solution_has_the_shape_dtype_and_device_of_the_costs(batch, dtype, device):
    costs = torch.rand(*batch, 4, device=device).to(dtype)
    solution = FunctionSolver(cheapest)(costs)
    assert (solution.shape, solution.dtype, solution.device) == (
        costs.shape,
        costs.dtype,
        costs.device,
    )


def test_a_function_sees_one_batch_axis_plain_tensors_and_no_gradient():
    seen = []

    def spy(costs):
        seen.append((costs.shape, costs.requires_grad, torch.is_grad_enabled()))
        return costs

    FunctionSolver(spy, item_dims=2)(torch.rand(2, 3, 4, 5).requires_grad_())
    assert seen == [((6, 4, 5), False, False)]


def test_an_empty_batch_is_not_solved():
    def fail(costs):
        raise AssertionError("called")

    assert FunctionSolver(fail)(torch.rand(2, 0, 4)).shape == (2, 0, 4)


def test_costs_outside_the_mask_are_not_read():
    costs = normal(0, 3, 4)
    mask = torch.tensor([True, True, True, False])
    solver = FunctionSolver(cheapest)
    expected = torch.cat([solver(costs[:, :3]), torch.zeros(3, 1)], 1)
    for value in (-100.0, torch.nan, torch.inf):
        costs[:, 3] = value
        assert_close(solver(costs, mask), expected.double())


@given(seeds)
def test_the_projection_is_orthogonal_to_all_rows_and_the_nearest_such_point(seed):
    rows = normal(seed, 3, 6)
    rows[2] = rows[0] - 2 * rows[1]  # rows may depend on one another
    costs = normal(seed + 1, 2, 6)
    solver = FunctionSolver(cheapest, equalities=rows)
    projected = solver.project(costs)
    expected = costs - costs @ (torch.linalg.pinv(rows) @ rows).T
    assert_close(projected, expected, rtol=0, atol=1e-9)
    assert_close(projected @ rows.T, torch.zeros(2, 3).double(), rtol=0, atol=1e-9)


@given(seeds)
def test_the_projection_under_a_mask_is_that_of_the_smaller_instance(seed):
    rows, costs = normal(seed, 2, 6), normal(seed + 1, 6)
    mask = torch.tensor([True, False, True, True, True, False])
    projected = FunctionSolver(cheapest, equalities=rows).project(costs, mask)
    small = FunctionSolver(cheapest, equalities=rows[:, mask]).project(costs[mask])
    assert_close(projected[mask], small, rtol=0, atol=1e-9)
    assert not projected[~mask].any()


def test_rows_and_columns_that_sum_to_one_are_projected_by_double_centring():
    costs = normal(0, 2, 4, 4)
    rows = torch.stack([torch.zeros(4, 4).double() for _ in range(8)])
    for line in range(4):
        rows[line, line] = 1
        rows[4 + line, :, line] = 1
    projected = FunctionSolver(Assignment(), item_dims=2, equalities=rows).project(costs)
    centred = costs - costs.mean(1, keepdim=True) - costs.mean(2, keepdim=True)
    assert_close(projected, centred + costs.mean((1, 2), keepdim=True))


@given(seeds)
def test_a_projection_changes_no_solution(seed):
    for solver, shape in ((TopK(2), (5,)), (Ranking(), (5,)), (Assignment(), (4, 4))):
        costs = normal(seed, 8, *shape)
        assert_close(solver(solver.project(costs)), solver(costs))


def test_a_projection_is_differentiable_and_its_own_transpose():
    rows = normal(0, 2, 5)
    solver = FunctionSolver(cheapest, equalities=rows)
    matrix = torch.autograd.functional.jacobian(solver.project, normal(1, 5))
    assert_close(matrix, matrix.T)
    assert_close(matrix @ matrix, matrix)
    mask = torch.arange(5) < 4
    assert torch.autograd.gradcheck(
        lambda c: solver.project(c, mask), normal(2, 2, 5).requires_grad_()
    )


def test_without_equalities_nothing_is_projected_but_the_mask():
    costs = normal(0, 2, 4)
    solver = FunctionSolver(cheapest)
    assert solver.project(costs) is costs
    mask = torch.tensor([True, True, False, True])
    assert_close(solver.project(costs, mask), costs * mask)


@pytest.mark.parametrize(
    ("costs", "error", "message"),
    [
        (torch.arange(4), TypeError, "`costs` must be a floating-point tensor, got torch.int64"),
        ([1.0, 2.0], TypeError, "`costs` must be a floating-point tensor, got list"),
        (torch.tensor(1.0), ValueError, "`costs` must end in 1 non-empty dimensions"),
        (torch.rand(3, 0), ValueError, "`costs` must end in 1 non-empty dimensions"),
        (torch.tensor([[1.0], [torch.nan]]), ValueError, "`costs` must be finite, .* row 1"),
        (torch.tensor([[1.0], [torch.inf]]), ValueError, "`costs` must be finite, .* row 1"),
        (torch.tensor([[1.0], [-torch.inf]]), ValueError, "`costs` must be finite, .* row 1"),
    ],
)
def test_costs_that_cannot_be_solved_are_refused(costs, error, message):
    with pytest.raises(error, match=message):
        FunctionSolver(cheapest)(costs)


def test_negative_costs_are_refused_by_instance_where_the_solver_wants_none():
    costs = torch.ones(2, 3, 4)
    costs[1, 1, 2] = -0.5
    with pytest.raises(ValueError, match=r"must not be negative .* got -0.5 in instance 4"):
        Positive()(costs)
    mask = torch.tensor([True, True, False, True])
    assert Positive()(costs, mask)[1, 1].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (torch.ones(2, 4), TypeError, "`mask` must be a boolean mask, got torch.float32"),
        ([True] * 4, TypeError, "`mask` must be a boolean mask, got list"),
        (torch.ones(3, dtype=torch.bool), ValueError, "`mask` must expand to the shape"),
        (torch.ones(5, 2, 4, dtype=torch.bool), ValueError, "`mask` must expand to the shape"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask, error, message):
    with pytest.raises(error, match=message):
        FunctionSolver(cheapest)(torch.rand(2, 4), mask)


@pytest.mark.parametrize("wrong", [lambda c: c.argmin(-1), lambda c: c.tolist(), lambda c: None])
def test_a_solver_that_returns_something_else_is_refused(wrong):
    with pytest.raises(ValueError, match=r"must return a tensor of the shape it was given, \(2, 4"):
        FunctionSolver(wrong)(torch.rand(2, 4))


def test_what_is_no_solver_is_refused():
    with pytest.raises(TypeError, match="must be a function or a `Solver`, got str"):
        FunctionSolver("top-k")  # pyright: ignore
    with pytest.raises(ValueError, match="`equalities` must have 3 axes"):
        FunctionSolver(cheapest, item_dims=2, equalities=torch.ones(1, 4))
    solver = FunctionSolver(cheapest, equalities=torch.ones(1, 4))
    with pytest.raises(ValueError, match=r"instances of shape \(4,\), for which"):
        solver.project(torch.rand(2, 5))


def test_every_solution_of_a_small_set_is_reached_and_cheapest():
    costs = torch.tensor(list(product([0.0, 1.0, 2.0], repeat=3)))
    solution = FunctionSolver(cheapest)(costs)
    assert_close((costs * solution).sum(1), costs.amin(1))
