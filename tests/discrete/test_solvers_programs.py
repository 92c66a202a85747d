"""Integer programs, the knapsack and the minimum cut, against all there is to choose from."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.discrete import IntegerProgram, Knapsack, MinimumCut, solve_discrete

from .optimum import (
    assert_keeps_shape_and_dtype,
    assert_optimal,
    assert_projects,
    costs_of,
)

INF = float("inf")
GRID = torch.tensor([[0, 0, 1, 2, 3], [1, 2, 3, 3, 4]])


def vectors(n, values=(0, 1)):
    return torch.tensor(list(product(values, repeat=n))).double()


def program(seed, rows=2, n=5):
    """Two inequalities and an equality, which the vector of alternating ones satisfies."""
    matrix = costs_of(seed, rows + 1, n).mul(2).round()
    known = torch.arange(n).remainder(2).double()
    value = matrix @ known
    least = torch.cat([torch.full((rows,), -INF).double(), value[rows:]])
    most = torch.cat([value[:rows] + 1, value[rows:]])
    return IntegerProgram(matrix, least, most)


def feasible(solver, n):
    members = vectors(n)
    values = members @ solver.matrix.T
    return members[((values >= solver.least) & (values <= solver.most)).all(1)]


def cuts(edges, num_nodes):
    labels = vectors(num_nodes)
    return torch.cat([labels, (labels[:, edges[0]] != labels[:, edges[1]]).double()], 1)


def cut_costs(seed, *batch):
    costs = costs_of(seed, *batch, 10)
    return torch.cat([costs[..., :5], costs[..., 5:].abs() / 2], -1)


WEIGHTS = torch.tensor([3, 1, 4, 0, 2])
SOLVERS = {
    "program": program(0),
    "knapsack": Knapsack(WEIGHTS, 5),
    "cut": MinimumCut(GRID, 5),
}
EACH = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
SIZES = {"program": 5, "knapsack": 5, "cut": 10}
EACH_SIZED = pytest.mark.parametrize(
    ("solver", "size"), [(solver, SIZES[name]) for name, solver in SOLVERS.items()], ids=SOLVERS
)


@settings(max_examples=40)
@given(st.integers(0, 2**31))
def test_the_program_is_solved_as_by_trying_all(seed):
    solver = program(seed)
    assert_optimal(solver, costs_of(seed + 1, 2, 5), feasible(solver, 5))


def test_integers_may_lie_between_any_bounds():
    solver = IntegerProgram(torch.ones(1, 3), torch.tensor([1.0]), torch.tensor([2.0]), -2, 3)
    members = vectors(3, range(-2, 4))
    members = members[(members.sum(1) >= 1) & (members.sum(1) <= 2)]
    assert_optimal(solver, costs_of(1, 10, 3), members)


@given(st.integers(0, 2**31), st.lists(st.integers(0, 6), min_size=1, max_size=7))
def test_the_knapsack_is_packed_as_by_trying_all(seed, weights):
    weights = torch.tensor(weights)
    members = vectors(len(weights))
    for capacity in (0, 4, 30):
        fits = members[members @ weights.double() <= capacity]
        assert_optimal(Knapsack(weights, capacity), costs_of(seed, 3, len(weights)), fits)


def test_a_knapsack_is_packed_for_values_by_maximising():
    values = torch.tensor([5.0, 1.0, 6.0, 0.0, 3.0])
    solution = solve_discrete(values, Knapsack(WEIGHTS, 5), maximize=True)
    assert solution.tolist() == [1, 0, 0, 0, 1]  # 5 and 3 for a weight of 5


@given(st.integers(0, 2**31))
def test_the_cut_is_the_cheapest_labelling(seed):
    assert_optimal(MinimumCut(GRID, 5), cut_costs(seed, 4), cuts(GRID, 5))


def test_a_cut_with_equal_costs_has_the_fewest_ones():
    costs = torch.tensor([-1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    assert MinimumCut(GRID, 5)(costs).tolist() == [0] * 10


def test_repelling_ends_count_as_free():
    costs = cut_costs(2, 6)
    repelling = costs.clone()
    repelling[:, 6] = -1
    free = costs.clone()
    free[:, 6] = 0
    assert torch.equal(MinimumCut(GRID, 5)(repelling), MinimumCut(GRID, 5)(free))


def test_a_node_without_edges_follows_its_own_cost():
    solver = MinimumCut(torch.tensor([[0], [1]]), 3)
    assert solver(torch.tensor([1.0, 1.0, -1.0, 5.0])).tolist() == [0, 0, 1, 0]


@EACH_SIZED
def test_shape_and_dtype_are_kept(solver, size):
    assert_keeps_shape_and_dtype(solver, size)


@EACH_SIZED
def test_ties_fall_the_same_way_each_time(solver, size):
    solution = solver(torch.zeros(3, size))
    assert torch.equal(solution[0], solution[2])
    assert torch.equal(solution, solver(torch.zeros(3, size)))


@EACH_SIZED
def test_the_solver_runs_on_the_device_of_the_costs(solver, size, device):
    costs = costs_of(3, 3, size)
    solution = solver(costs.to(device))
    assert solution.device.type == device.type
    assert torch.equal(solution.cpu(), solver(costs))


@EACH_SIZED
def test_costs_of_another_length_are_refused(solver, size):
    with pytest.raises(ValueError, match=rf"`costs` must have .*{size}.*, got {size + 1}: "):
        solver(torch.ones(2, size + 1))


@EACH_SIZED
def test_nothing_is_projected_but_equalities(solver, size):
    costs = costs_of(4, 2, size)
    if isinstance(solver, IntegerProgram):
        assert torch.equal(solver.equalities(torch.Size([size])), solver.matrix[2:])
        assert_projects(solver, costs)
    else:
        assert torch.equal(solver.project(costs), costs)


def test_inequalities_alone_are_not_projected():
    solver = IntegerProgram(torch.ones(1, 3), torch.tensor([-INF]), torch.tensor([2.0]))
    costs = costs_of(5, 2, 3)
    assert torch.equal(solver.project(costs), costs)


def test_a_masked_item_is_not_packed():
    costs, mask = -torch.ones(2, 5), torch.ones(2, 5, dtype=torch.bool)
    mask[1, [1, 3]] = False
    solution = Knapsack(WEIGHTS, 5)(costs, mask)
    assert torch.equal(solution[1, mask[1]], Knapsack(WEIGHTS[mask[1]], 5)(costs[1, mask[1]]))
    assert not solution[~mask].any()


def test_a_masked_integer_is_zero():
    solver = IntegerProgram(torch.ones(1, 4), torch.tensor([2.0]), torch.tensor([2.0]))
    mask = torch.tensor([[True, True, True, True], [True, False, True, True]])
    solution = solver(torch.tensor([[1.0, 0.0, 3.0, 2.0]]).expand(2, 4), mask)
    assert solution.tolist() == [[1, 1, 0, 0], [1, 0, 0, 1]]


def test_a_masked_part_of_a_cut_is_a_smaller_cut():
    costs = cut_costs(6, 20)
    mask = torch.tensor([True] * 4 + [False] + [True] * 4 + [False]).expand(20, 10)  # no node 4
    solution = MinimumCut(GRID, 5)(costs, mask)
    alone = MinimumCut(GRID[:, :4], 4)(costs[:, mask[0]])
    assert torch.equal(solution[:, mask[0]], alone)
    assert not solution[~mask].any()


def test_an_infeasible_program_is_refused_by_name():
    solver = IntegerProgram(torch.ones(1, 3), torch.tensor([2.0]), torch.tensor([INF]))
    mask = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
    with pytest.raises(ValueError, match="leave a solution, and instance 2 of the batch has none"):
        solver(torch.ones(3, 3), mask)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: IntegerProgram(torch.ones(2, 3), torch.ones(1), torch.ones(2)),
            ValueError,
            r"got shapes \(2, 3\), \(1,\) and \(2,\): one row per constraint",
        ),
        (
            lambda: IntegerProgram(torch.full((1, 3), torch.nan), torch.ones(1), torch.ones(1)),
            ValueError,
            "`matrix` must be finite, got NaN",
        ),
        (
            lambda: IntegerProgram(torch.ones(1, 3), torch.full((1,), torch.nan), torch.ones(1)),
            ValueError,
            "must not be NaN, got one: use inf for no bound",
        ),
        (lambda: Knapsack(torch.ones(3), 2), TypeError, "whole numbers, got torch.float32: scale"),
        (lambda: Knapsack([1, 2], 2), TypeError, "whole numbers, got list: scale"),
        (
            lambda: Knapsack(torch.tensor([1, -1]), 2),
            ValueError,
            r"none negative, got \[1, -1\]: an item of negative weight can be turned",
        ),
        (
            lambda: Knapsack(torch.tensor([1]), -1),
            ValueError,
            "`capacity` must not be negative, got -1: nothing",
        ),
        (
            lambda: MinimumCut(GRID, 4),
            ValueError,
            "more than the last node of `edges`, 4, got 4: count the nodes",
        ),
    ],
)
def test_what_makes_no_problem_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_the_scale_of_the_costs_of_a_program_changes_nothing(scale):
    solver, costs = program(1), costs_of(7, 4, 5)
    assert torch.equal(solver(scale * costs), solver(costs))
