"""Tours: exact by both methods, with absent nodes and forbidden edges."""

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from weft.discrete import Tour
from weft.discrete._solvers import tours

from .optimum import (
    assert_keeps_shape_and_dtype,
    assert_optimal,
    assert_projects,
    assert_ragged_is_a_loop,
    costs_of,
)


def all_tours(n):
    i, j = torch.triu_indices(n, n, 1)
    members = []
    for order in permutations(range(1, n)):
        matrix = torch.zeros(n, n)
        nodes = torch.tensor([0, *order])
        matrix[nodes, nodes.roll(1)] = 1
        members.append((matrix + matrix.T)[i, j].clamp_max(1))
    return torch.stack(members).unique(dim=0)


TOURS = {n: all_tours(n) for n in range(3, 7)}
METHODS = pytest.mark.parametrize("few", [12, 2], ids=["dynamic programming", "cuts"])


def edges_among(nodes, n):
    """The mask that keeps the edges between the given nodes."""
    i, j = torch.triu_indices(n, n, 1)
    there = torch.zeros(n, dtype=torch.bool)
    there[list(nodes)] = True
    return there[i] & there[j]


@METHODS
@settings(max_examples=20)
@given(seed=st.integers(0, 2**31), n=st.sampled_from(sorted(TOURS)))
def test_the_tour_is_the_shortest_of_all(few, seed, n):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tours, "_FEW", few)
        assert_optimal(Tour(), costs_of(seed, 3, len(TOURS[n][0])), TOURS[n])


def test_both_methods_agree_where_subtours_must_be_cut(monkeypatch):
    points = costs_of(1, 2, 11, 2) + 8 * (torch.arange(11) % 3)[:, None]  # three far clusters
    i, j = torch.triu_indices(11, 11, 1)
    costs = (points[:, i] - points[:, j]).norm(dim=2)
    exact = Tour()(costs)
    monkeypatch.setattr(tours, "_FEW", 2)
    assert torch.equal(Tour()(costs), exact)


def test_a_tour_of_many_nodes_on_a_circle_follows_it():
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    angle = order * torch.pi / 15
    points = torch.stack([angle.cos(), angle.sin()], 1).double()
    i, j = torch.triu_indices(30, 30, 1)
    solution = Tour()((points[i] - points[j]).norm(dim=1))
    step = (order[i] - order[j]).abs()
    assert torch.equal(solution.bool(), (step == 1) | (step == 29))


@METHODS
def test_a_forbidden_edge_is_not_taken(few, monkeypatch):
    monkeypatch.setattr(tours, "_FEW", few)
    costs = costs_of(2, 15)
    mask = ~(Tour()(costs).bool() & (torch.arange(15) == Tour()(costs).argmax()))
    members = TOURS[6][~(TOURS[6].bool() & ~mask).any(1)].double()
    solution = Tour()(costs, mask)
    assert_close((solution * costs).sum(), (members @ costs).min())


@METHODS
def test_an_instance_without_a_tour_is_refused_by_name(few, monkeypatch):
    monkeypatch.setattr(tours, "_FEW", few)
    i, j = torch.triu_indices(5, 5, 1)
    for closed in ((i > 0), (j > i + 1)):  # left are a star, then a way without its return
        mask = torch.stack([torch.ones(10).bool(), ~closed])
        with pytest.raises(ValueError, match="leave a tour, and instance 1 of the batch has none"):
            Tour()(costs_of(3, 2, 10), mask)
    with pytest.raises(ValueError, match="three nodes or more, and instance 0 of the batch has 2"):
        Tour()(costs_of(3, 10), edges_among([1, 4], 5))


def test_a_ragged_batch_is_a_loop():
    mask = torch.stack([edges_among(nodes, 6) for nodes in (range(6), range(4), (1, 3, 5))])
    assert_ragged_is_a_loop(Tour(), costs_of(4, 3, 15), mask)


def test_shape_and_dtype_are_kept():
    assert_keeps_shape_and_dtype(Tour(), 10)


@pytest.mark.parametrize("masked", [False, True])
def test_the_projection_is_that_of_the_degrees(masked):
    mask = torch.stack([edges_among(nodes, 6) for nodes in (range(6), range(5))])
    assert_projects(Tour(), costs_of(5, 2, 15), mask if masked else None)


def test_six_nodes_leave_nine_directions():
    assert torch.linalg.matrix_rank(Tour().project(torch.eye(15).double())) == 9


def test_ties_fall_the_same_way_each_time():
    solution = Tour()(torch.zeros(3, 10))
    assert torch.equal(solution[0], solution[2])
    assert solution[0].sum() == 5


@pytest.mark.parametrize("entries", [1, 2, 4, 14])
def test_costs_that_are_no_pairs_are_refused(entries):
    with pytest.raises(ValueError, match=rf"pair of 3 or more nodes .*, got {entries}: take those"):
        Tour()(torch.ones(entries))


def test_the_solver_runs_on_the_device_of_the_costs(device):
    costs = costs_of(6, 4, 15)
    solution = Tour()(costs.to(device))
    assert solution.device.type == device.type
    assert torch.equal(solution.cpu(), Tour()(costs))
