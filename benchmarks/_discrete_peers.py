"""The peers of `discrete_solvers.py`: in plain Python, over SciPy and NetworkX, and PyEPO's.

Each maps the costs of a batch to its solutions, one instance after the other.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

import networkx as nx
import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

AROUND = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]

Method = Callable[[Tensor], Tensor]


def heap(costs: Tensor) -> Tensor:
    """Search each grid on NumPy arrays, as the code released with the first such layers does."""
    return torch.from_numpy(np.stack([_heap_path(grid) for grid in costs.numpy()]))


def _heap_path(costs: np.ndarray) -> np.ndarray:
    """Return the cheapest path between two corners."""
    height, width = costs.shape
    distances, before = np.full_like(costs, np.inf), {}
    distances[0, 0] = costs[0, 0]
    queue, done = [(costs[0, 0], (0, 0))], set()
    while queue:
        _, here = heappop(queue)
        if here in done:
            continue
        done.add(here)
        for down, right in AROUND:
            row, column = here[0] + down, here[1] + right
            if not (0 <= row < height and 0 <= column < width) or (row, column) in done:
                continue
            distance = distances[here] + costs[row, column]
            if distance < distances[row, column]:
                distances[row, column], before[row, column] = distance, here
                heappush(queue, (distance, (row, column)))
    path, here = np.zeros_like(costs), (height - 1, width - 1)
    path[here] = 1
    while here != (0, 0):
        here = before[here]
        path[here] = 1
    return path


def lists(costs: Tensor) -> Tensor:
    """Do what `heap` does, on flat lists."""
    size = costs.shape[-1]
    around = [
        [
            (row + down) * size + column + right
            for down, right in AROUND
            if 0 <= row + down < size and 0 <= column + right < size
        ]
        for row in range(size)
        for column in range(size)
    ]
    paths = torch.zeros_like(costs).flatten(1)
    for path, grid in zip(paths, costs.flatten(1).tolist(), strict=True):
        distances, before, done = [float("inf")] * size**2, [0] * size**2, [False] * size**2
        distances[0] = grid[0]
        queue = [(grid[0], 0)]
        while not done[-1]:
            _, here = heappop(queue)
            if done[here]:
                continue
            done[here] = True
            for near in around[here]:
                distance = distances[here] + grid[near]
                if distance < distances[near]:
                    distances[near], before[near] = distance, here
                    heappush(queue, (distance, near))
        trail = [size**2 - 1]
        while trail[-1]:
            trail.append(before[trail[-1]])
        path[trail] = 1
    return paths.view_as(costs)


def scipy_grids(size: int) -> Method:
    """Return a loop over SciPy's Dijkstra; entering a cell costs what the cell costs."""
    cells = np.arange(size * size)
    rows, columns = np.divmod(cells, size)
    near = (abs(rows[:, None] - rows) <= 1) & (abs(columns[:, None] - columns) <= 1)
    starts, ends = (near & ~np.eye(size * size, dtype=bool)).nonzero()
    pointers = np.searchsorted(starts, np.arange(size * size + 1))

    def solve(costs: Tensor) -> Tensor:
        paths = torch.zeros_like(costs)
        for grid, path in zip(costs.numpy(), paths.view(len(costs), -1), strict=True):
            graph = csr_array((grid.ravel()[ends], ends, pointers), shape=(size * size,) * 2)
            _, before = dijkstra(graph, indices=0, return_predecessors=True)
            here = size * size - 1
            while here >= 0:
                path[here] = 1
                here = before[here]
        return paths

    return solve


def scipy_assignments(costs: Tensor) -> Tensor:
    """Loop over SciPy's assignment."""
    solution = np.zeros(costs.shape)
    for matrix, assigned in zip(costs.numpy(), solution, strict=True):
        assigned[linear_sum_assignment(matrix)] = 1
    return torch.from_numpy(solution)


def hungarian(costs: Tensor) -> Tensor:
    """Assign by shortest augmenting paths with potentials, on lists."""
    solution = torch.zeros_like(costs)
    for matrix, assigned in zip(costs.tolist(), solution, strict=True):
        owners = _assign(matrix)
        assigned[owners, range(len(owners))] = 1
    return solution


def _assign(costs: list[list[float]]) -> list[int]:
    """Return the row of each column."""
    n = len(costs)
    by_row, by_column, owner = [0.0] * n, [0.0] * (n + 1), [-1] * (n + 1)
    for row in range(n):
        here, owner[n] = n, row  # column n holds the row that is still to be placed
        least, before, done = [float("inf")] * n, [n] * n, [False] * (n + 1)
        while owner[here] >= 0:
            done[here] = True
            line, price = costs[owner[here]], by_row[owner[here]]
            step, nearest = float("inf"), -1
            for column in range(n):
                if done[column]:
                    continue
                slack = line[column] - price - by_column[column]
                if slack < least[column]:
                    least[column], before[column] = slack, here
                if least[column] < step:
                    step, nearest = least[column], column
            for column in range(n + 1):
                if done[column]:
                    by_row[owner[column]] += step
                    by_column[column] -= step
                elif column < n:
                    least[column] -= step
            here = nearest
        while here != n:
            owner[here] = owner[before[here]]
            here = before[here]
    return owner[:n]


def networkx(edges: Tensor) -> Method:
    """Return minimal perfect matchings of a graph, by NetworkX."""
    place = {frozenset(pair): index for index, pair in enumerate(edges.T.tolist())}

    def solve(costs: Tensor) -> Tensor:
        solution = torch.zeros_like(costs)
        for own, chosen in zip(costs.tolist(), solution, strict=True):
            graph = nx.Graph()
            pairs = zip(*edges.tolist(), own, strict=True)
            graph.add_weighted_edges_from((i, j, 10 - cost) for i, j, cost in pairs)
            found = nx.max_weight_matching(graph, maxcardinality=True)
            chosen[[place[frozenset(pair)] for pair in found]] = 1
        return solution

    return solve


def pyepo_paths(size: int) -> tuple[Tensor, Method]:
    """Return the arcs of PyEPO's grid and its solutions for costs on them."""
    from pyepo.model.ort import shortestPathModel

    model = shortestPathModel((size, size))
    return torch.tensor(model.arcs).T, _loop(model)


def pyepo_assignments(size: int) -> Method:
    """Return the solutions of a model for PyEPO, which has none of its own for assignments."""
    from ortools.linear_solver import pywraplp
    from pyepo.model.ort import optOrtModel

    class AssignmentModel(optOrtModel):
        def _getModel(self) -> tuple[Any, dict[tuple[int, int], Any]]:  # noqa: N802, theirs
            program = pywraplp.Solver.CreateSolver("GLOP")
            places = range(size)
            chosen = {(i, j): program.NumVar(0, 1, "") for i in places for j in places}
            for i in places:
                program.Add(sum(chosen[i, j] for j in places) == 1)
                program.Add(sum(chosen[j, i] for j in places) == 1)
            return program, chosen

    return _loop(AssignmentModel("glop"))


def _loop(model: Any) -> Method:
    def solve(costs: Tensor) -> Tensor:
        found = []
        for instance in costs.flatten(1).numpy():
            model.setObj(instance)
            found.append(model.solve()[0])
        return torch.from_numpy(np.stack(found)).round().to(costs).view_as(costs)

    return solve
