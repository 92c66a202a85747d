"""Paths through grids: the cheapest, also with walls, zero costs and other ends."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra
from torch.testing import assert_close

from weft.discrete import GridPath

from .optimum import (
    assert_keeps_shape_and_dtype,
    assert_optimal,
    assert_ragged_is_a_loop,
    costs_of,
)


def neighbours(cell, height, width, count):
    row, column = divmod(cell, width)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            steps = abs(down) + abs(right)
            if steps == 1 or (steps == 2 and count == 8):
                there = row + down, column + right
                if 0 <= there[0] < height and 0 <= there[1] < width:
                    yield there[0] * width + there[1]


def paths(height, width, count, start=0, end=None):
    """All paths without a cell twice, as indicators."""
    end = height * width - 1 if end is None else end
    found, open_ends = [], [[start]]
    while open_ends:
        path = open_ends.pop()
        if path[-1] == end:
            found.append(torch.zeros(height * width).index_fill(0, torch.tensor(path), 1.0))
            continue
        for cell in neighbours(path[-1], height, width, count):
            if cell not in path:
                open_ends.append([*path, cell])
    return torch.stack(found).unique(dim=0)


PATHS = {(shape, n): paths(*shape, n) for shape in ((3, 3), (2, 4), (1, 4)) for n in (4, 8)}


def distance(costs, count, mask=None):
    """The cost of the cheapest path between the corners, by Dijkstra's algorithm."""
    height, width = costs.shape
    inside = torch.ones_like(costs).bool() if mask is None else mask
    flat, inside = costs.double().flatten(), inside.flatten()
    edges = [
        (a, b, flat[b].item() + 1e-300)  # an explicit zero is no edge to a dense reader
        for a in range(height * width)
        for b in neighbours(a, height, width, count)
        if inside[a] and inside[b]
    ]
    a, b, cost = zip(*edges, strict=True)
    graph = coo_array((cost, (a, b)), shape=(height * width, height * width))
    return dijkstra(graph, indices=0)[-1] + flat[0].item()


@given(st.integers(0, 2**31), st.sampled_from(sorted(PATHS)))
def test_the_path_is_the_cheapest_of_all(seed, case):
    (height, width), count = case
    costs = costs_of(seed, 3, height, width).abs()
    assert_optimal(GridPath(neighbors=count), costs, PATHS[case])


@pytest.mark.parametrize("count", [4, 8])
@given(seed=st.integers(0, 2**31), shape=st.tuples(st.integers(2, 9), st.integers(2, 9)))
def test_the_path_costs_what_dijkstra_finds(count, seed, shape):
    costs = costs_of(seed, 2, *shape).square()
    total = (GridPath(neighbors=count)(costs) * costs).sum((1, 2))
    assert_close(total, torch.tensor([distance(grid, count) for grid in costs]))


@pytest.mark.parametrize("count", [4, 8])
@given(seed=st.integers(0, 2**31))
def test_costs_of_zero_make_no_circles_and_no_detours(count, seed):
    generator = torch.Generator().manual_seed(seed)
    costs = torch.randint(3, (2, 5, 6), generator=generator).clamp_min(1).double() - 1
    solution = GridPath(neighbors=count)(costs)
    total = (solution * costs).sum((1, 2))
    assert_close(total, torch.tensor([distance(grid, count) for grid in costs]))
    straight = GridPath(neighbors=count)(torch.zeros(5, 6))
    assert straight.sum() == (6 if count == 8 else 10)


def test_costs_lost_in_rounding_still_lead_from_end_to_start():
    costs = torch.full((7, 9), 1e-30).double()
    costs[0, 0] = 1.0
    assert GridPath()(costs).sum() == 9


def test_a_path_may_wind_through_a_maze():
    mask = torch.ones(9, 9, dtype=torch.bool)
    mask[1::4, :-1] = mask[3::4, 1:] = False
    solution = GridPath(neighbors=4)(torch.ones(9, 9), mask)
    assert solution.sum() == mask.sum()


@given(st.integers(0, 2**31))
def test_walls_are_walked_around(seed):
    costs = costs_of(seed, 6, 6).abs()
    mask = costs_of(seed + 1, 6, 6) > -0.5
    mask[0] = mask[:, -1] = True
    solution = GridPath()(costs, mask)
    assert not solution[~mask].any()
    assert_close((solution * costs).sum().item(), distance(costs, 8, mask))


def test_equal_ways_fall_to_the_first_neighbour_from_the_end():
    solution = GridPath(neighbors=4)(torch.ones(3, 3))
    assert solution.tolist() == [[1, 1, 1], [0, 0, 1], [0, 0, 1]]


@pytest.mark.parametrize("count", [4, 8])
@pytest.mark.parametrize(("start", "end"), [((1, 2), (2, 0)), ((2, 2), (0, 0)), ((2, 0), (0, 1))])
def test_start_and_end_may_be_anywhere(count, start, end):
    costs = costs_of(1, 5, 3, 3).abs()
    solver = GridPath(start=start, end=end, neighbors=count)
    first, last = (3 * row + column for row, column in (start, end))
    assert_optimal(solver, costs, paths(3, 3, count, start=first, end=last))


def test_a_path_from_a_cell_to_itself_is_that_cell():
    solution = GridPath(start=(1, 1), end=(1, 1))(torch.ones(2, 3, 3))
    assert torch.equal(solution.sum((1, 2)), torch.ones(2))
    assert GridPath()(torch.tensor([[3.0]])) == 1


def test_shape_and_dtype_are_kept():
    assert_keeps_shape_and_dtype(GridPath(), 4, 5)


def test_a_ragged_batch_is_a_loop():
    rows, columns = torch.arange(6)[:, None], torch.arange(7)
    mask = torch.stack([(rows < r) & (columns < c) for r, c in ((6, 7), (3, 3), (1, 5), (4, 2))])
    assert_ragged_is_a_loop(GridPath(), costs_of(2, 4, 6, 7).abs(), mask)
    assert_ragged_is_a_loop(GridPath(), costs_of(2, 4, 6, 7).abs(), mask.flip(1, 2))


def test_nothing_is_fixed_but_the_ends_so_nothing_is_projected():
    costs = costs_of(3, 2, 3, 3)
    assert torch.equal(GridPath().project(costs), costs)


def test_the_solver_runs_on_the_device_of_the_costs(device):
    costs = costs_of(4, 8, 9, 7).abs()
    solution = GridPath()(costs.to(device))
    assert solution.device.type == device.type
    assert torch.equal(solution.cpu(), GridPath()(costs))


def test_negative_costs_are_refused_by_name():
    costs = torch.ones(3, 4, 4)
    costs[2, 1, 1] = -0.5
    with pytest.raises(
        ValueError, match=r"not be negative for this solver, got -0.5 in instance 2"
    ):
        GridPath()(costs)


def test_an_end_behind_walls_is_refused_by_name():
    mask = torch.ones(3, 4, 4, dtype=torch.bool)
    mask[1, 2] = False
    message = "leave a path from start to end, and instance 1 of the batch has none: open more"
    with pytest.raises(ValueError, match=message):
        GridPath()(torch.ones(3, 4, 4), mask)
    with pytest.raises(ValueError, match="instance 1 of the batch has none"):
        GridPath(start=(2, 1))(torch.ones(3, 4, 4), mask)  # a wall to start from
    with pytest.raises(ValueError, match="instance 0 of the batch has none"):
        GridPath()(torch.ones(4, 4), torch.zeros(4, 4, dtype=torch.bool))


@pytest.mark.parametrize("end", [(4, 0), (0, 4), (-1, 0)])
def test_an_end_outside_the_grid_is_refused(end):
    with pytest.raises(ValueError, match="`end` must be a cell of the grid, 4 by 4, got"):
        GridPath(end=end)(torch.ones(4, 4))


def test_other_neighbourhoods_are_refused():
    with pytest.raises(ValueError, match="`neighbors` must be 4 or 8, got 6: choose one"):
        GridPath(neighbors=6)
