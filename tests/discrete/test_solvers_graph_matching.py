"""Graph matching: feasible always, the cheapest where it is easy, and honest about the rest."""

from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from weft.discrete import Assignment, GraphMatching

from .optimum import assert_keeps_shape_and_dtype, assert_optimal, assert_projects, costs_of

LEFT = torch.tensor([[0, 0, 1, 2], [1, 2, 3, 3]])
RIGHT = torch.tensor([[0, 1, 1, 2, 3], [4, 2, 4, 3, 4]])
SOLVER = GraphMatching(LEFT, RIGHT, 4, 5)
SIZE = 4 * 5 + 4 * 5


def members(solver):
    """All solutions: which left edge lies on which right edge follows from the nodes."""
    found = []
    for chosen in permutations(range(solver.num_right), solver.num_left):
        nodes = torch.zeros(solver.num_left, solver.num_right)
        nodes[torch.arange(solver.num_left), list(chosen)] = 1
        edges = torch.zeros(solver.left.shape[1], solver.right.shape[1])
        for e, (i, j) in enumerate(solver.left.T.tolist()):
            for f, pair in enumerate(solver.right.T.tolist()):
                edges[e, f] = sorted((chosen[i], chosen[j])) == pair
        found.append(torch.cat([nodes.flatten(), edges.flatten()]))
    return torch.stack(found).double()


MEMBERS = members(SOLVER)


@given(st.integers(0, 2**31))
def test_without_edge_costs_it_is_the_assignment(seed):
    costs = costs_of(seed, 3, SIZE)
    costs[:, 20:] = 0
    assert_optimal(SOLVER, costs, MEMBERS)
    nodes = Assignment()(costs[:, :20].unflatten(1, (4, 5)))
    assert torch.equal(SOLVER(costs)[:, :20], nodes.flatten(1))


@given(st.integers(0, 2**31))
def test_the_solution_is_feasible_and_no_worse_than_that_of_the_nodes_alone(seed):
    costs = costs_of(seed, 3, SIZE)
    solution = SOLVER(costs)
    assert (solution[:, None] == MEMBERS).all(2).any(1).all()
    nodes = Assignment()(costs[:, :20].unflatten(1, (4, 5))).flatten(1)
    alone = MEMBERS[(nodes[:, None] == MEMBERS[:, :20]).all(2).int().argmax(1)]
    assert ((solution * costs).sum(1) <= (alone * costs).sum(1) + 1e-12).all()


@pytest.mark.parametrize(("weight", "found"), [(0.3, 0.9), (1.0, 0.68), (3.0, 0.55)])
def test_the_heuristic_often_finds_the_cheapest(weight, found):
    costs = costs_of(0, 200, SIZE)
    costs[:, 20:] *= weight  # the more edges cost, the harder
    gap = (SOLVER(costs) * costs).sum(1) - (costs @ MEMBERS.T).amin(1)
    assert (gap < 1e-9).double().mean() > found
    assert not SOLVER.exact


def test_a_graph_is_found_again_when_its_nodes_are_renamed():
    generator = torch.Generator().manual_seed(0)
    pairs = torch.triu_indices(8, 8, 1)
    left = pairs[:, torch.rand(28, generator=generator) < 0.5]
    lengths = torch.rand(left.shape[1], generator=generator)
    renamed = torch.randperm(8, generator=generator)
    right = renamed[left].sort(0).values
    solver = GraphMatching(left, right, 8, 8)
    edges = (lengths[:, None] - lengths).abs() - 1  # equal lengths belong on each other
    solution = solver(torch.cat([torch.zeros(64), edges.flatten()]))
    assert solution[:64].view(8, 8).argmax(1).tolist() == renamed.tolist()


def test_shape_and_dtype_are_kept():
    assert_keeps_shape_and_dtype(SOLVER, SIZE)


def test_the_projection_is_that_of_the_assignment():
    square = GraphMatching(LEFT, LEFT, 4, 4)
    costs = costs_of(1, 2, 32)
    projected = square.project(costs)
    assert_close(projected[:, 16:], costs[:, 16:])
    assert_projects(square, costs)
    assert_projects(SOLVER, costs_of(2, 2, SIZE))


def test_a_masked_part_is_a_smaller_problem():
    nodes = torch.ones(4, 5, dtype=torch.bool)
    nodes[3], nodes[:, 4] = False, False  # drop the last of each
    edges = (LEFT[1] < 3)[:, None] & (RIGHT[1] < 4)
    mask = torch.cat([nodes.flatten(), edges.flatten()]).expand(20, SIZE)
    costs = costs_of(3, 20, SIZE)
    solution = SOLVER(costs, mask)
    alone = GraphMatching(LEFT[:, LEFT[1] < 3], RIGHT[:, RIGHT[1] < 4], 3, 4)
    assert not solution[~mask].any()
    assert torch.equal(solution[:, mask[0]], alone(costs[:, mask[0]]))
    assert_close(SOLVER.project(costs, mask)[:, mask[0]], alone.project(costs[:, mask[0]]))


def test_the_same_costs_have_the_same_solution():
    solution = SOLVER(torch.zeros(3, SIZE))
    assert torch.equal(solution[0], solution[2])


def test_the_solver_runs_on_the_device_of_the_costs(device):
    solution = SOLVER(costs_of(4, 3, SIZE).to(device))
    assert solution.device.type == device.type
    assert torch.equal(solution.cpu(), SOLVER(costs_of(4, 3, SIZE)))


def test_costs_of_another_length_are_refused():
    with pytest.raises(ValueError, match="have 40 entries, 4 x 5 for nodes and then 4 x 5 for edg"):
        SOLVER(torch.ones(2, 41))


def test_a_node_beyond_the_last_is_refused():
    with pytest.raises(
        ValueError, match="`num_right` must be more than the last node of `right`, 4"
    ):
        GraphMatching(LEFT, RIGHT, 4, 4)


def test_an_instance_without_an_assignment_is_refused_by_name():
    mask = torch.ones(2, SIZE, dtype=torch.bool)
    mask[1, :20] = False
    mask[1, [0, 5]] = True  # two nodes on the left, one on the right for both
    mask[1, [10, 11, 12]] = True
    with pytest.raises(ValueError, match="instance 1 of the batch has none for its 3 rows"):
        SOLVER(costs_of(5, 2, SIZE), mask)
