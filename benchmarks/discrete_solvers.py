"""A batch is solved many times faster than by a loop in Python; a layer on it costs little more.

Batches of 70 grids with vertex costs, 70 grids with costs on arcs right and down, 128 assignments,
and 32 perfect matchings of grids; all methods get the same costs, and their solutions must cost
the same. `ratio` is a method's median time over that of weft's solver called plainly.

The layer, around the same solver
- forward: `solve_discrete`, its costs wanting a gradient.
- bare: forward and backward of the least autograd.Function that torch.func takes, -grad.
- layer: forward and backward of `solve_discrete` with `Identity`, without projection.
- projected: the same with the default projection of its gradient.
- Blackbox: the same with a rule that solves twice.
- cores: the solver called plainly, with as many threads as the machine has cores; `ratio` below
  one is what they bring.

Peers
- heap: Dijkstra's algorithm in plain Python, one grid after the other, on NumPy arrays: how the
  code released with the first papers on such layers solves them.
- lists: the same on lists, which Python reads faster, with the neighbours listed beforehand.
- scipy: the same loop with SciPy's Dijkstra, the graph of the grid built once for its shape; for
  assignments, a loop over scipy.optimize.linear_sum_assignment.
- networkx: matchings by blossoms in plain Python.
- PyEPO, with --peer: its shortest path on a grid, right and down, by OR-Tools, instance by instance
  as its layers do. PATH is a folder with `pyepo`, `ortools` and what they need, such as the
  site-packages of a virtual environment.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import torch
from _measure import argument_parser, interleave, store
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from weft.discrete import (
    Assignment,
    Blackbox,
    GraphPath,
    GridPath,
    Identity,
    PerfectMatching,
    Projection,
    Rule,
    Solver,
    solve_discrete,
)

GRIDS, ASSIGNMENTS, MATCHINGS = 70, 128, 32  # instances in a batch
AROUND = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]

Method = Callable[[Tensor], Tensor]
"""Maps the costs of a batch to its solutions."""


def heap(costs: Tensor) -> Tensor:
    return torch.from_numpy(np.stack([heap_path(grid) for grid in costs.numpy()]))


def heap_path(costs: np.ndarray) -> np.ndarray:
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
    solution = np.zeros(costs.shape)
    for matrix, assigned in zip(costs.numpy(), solution, strict=True):
        assigned[linear_sum_assignment(matrix)] = 1
    return torch.from_numpy(solution)


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


def pyepo(size: int) -> tuple[Tensor, Method]:
    """Return the arcs of PyEPO's grid and its solutions for costs on them."""
    from pyepo.model.ort import shortestPathModel

    model = shortestPathModel((size, size))

    def solve(costs: Tensor) -> Tensor:
        found = []
        for instance in costs.numpy():
            model.setObj(instance)
            found.append(model.solve()[0])
        return torch.from_numpy(np.stack(found)).round().to(costs)

    return torch.tensor(model.arcs).T, solve


def arcs_right_and_down(size: int) -> Tensor:
    cells = torch.arange(size * size).view(size, size)
    right = torch.stack([cells[:, :-1].flatten(), cells[:, 1:].flatten()])
    down = torch.stack([cells[:-1].flatten(), cells[1:].flatten()])
    return torch.cat([right, down], 1)


class _Bare(torch.autograd.Function):
    """Solve, and return the negative gradient: nothing else."""

    @staticmethod
    def forward(costs: Tensor, solver: Solver) -> Tensor:
        return solver(costs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return -grad, None


def on_all_cores(method: Method, costs: Tensor) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    method(costs)
    torch.set_num_threads(threads)


def compare(
    name: str, costs: Tensor, solver: Solver, peers: dict[str, Method], rounds: int
) -> dict[str, object]:
    """Time all methods on one batch, and print a row for each."""
    axes = tuple(range(1, costs.ndim))
    best = (solver(costs) * costs).sum(axes)
    for peer, method in peers.items():
        torch.testing.assert_close((method(costs) * costs).sum(axes), best, msg=f"{peer} differs")
    known = costs.clone().requires_grad_()
    grad = torch.randn(costs.shape, generator=torch.Generator().manual_seed(1), dtype=costs.dtype)

    def back(solution: Tensor) -> None:
        torch.autograd.grad(solution, known, grad)

    def step(rule: Rule) -> None:
        back(solve_discrete(known, solver, rule))

    timings = interleave(
        {
            "weft": partial(solver, costs),
            "forward": partial(solve_discrete, known, solver),
            "bare": lambda: back(_Bare.apply(known, solver)),
            "layer": partial(step, Identity(Projection.NONE)),
            "projected": partial(step, Identity()),
            "Blackbox": partial(step, Blackbox(1.0)),
            "cores": partial(on_all_cores, solver, costs),
            **{peer: partial(method, costs) for peer, method in peers.items()},
        },
        rounds=rounds,
    )
    rows = {}
    for method, timing in timings.items():
        ratio = timing.wall / timings["weft"].wall
        print(f"{name:22}{method:10}{timing.wall * 1e3:10.2f}{ratio:8.2f}")
        rows[method] = {**asdict(timing), "ratio": ratio}
    return {"case": name, "shape": list(costs.shape), "methods": rows}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--peer", type=Path, help="folder with pyepo and ortools")
    arguments = parser.parse_args()
    if arguments.peer is not None:
        sys.path.append(str(arguments.peer))
    grids, matrices, matchings = (4,), (5,), (4,)
    if not arguments.quick:
        grids, matrices, matchings = (12, 18, 24, 30), (32, 64, 100), (4, 8, 12)
    run = partial(compare, rounds=2 if arguments.quick else 15)
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:  # from 0.8 to 9.2, as the terrain of the published maps
        return 0.8 + 8.4 * torch.rand(*shape, generator=generator, dtype=torch.float64)

    print(f"{'':22}{'':10}{'ms':>10}{'ratio':>8}")
    cases = []
    for size in grids:
        costs = draw(GRIDS, size, size)
        peers: dict[str, Method] = {"heap": heap, "lists": lists, "scipy": scipy_grids(size)}
        cases.append(run(f"grid {size}", costs, GridPath(), peers))
    for size in grids:
        arcs, peers = arcs_right_and_down(size), {}
        if arguments.peer is not None:
            arcs, peers["PyEPO"] = pyepo(size)
        costs = draw(GRIDS, arcs.shape[1])
        cases.append(run(f"right and down {size}", costs, GraphPath(arcs, 0, size**2 - 1), peers))
    for size in matrices:
        costs = draw(ASSIGNMENTS, size, size)
        cases.append(run(f"assignment {size}", costs, Assignment(), {"scipy": scipy_assignments}))
    for size in matchings:
        edges = arcs_right_and_down(size)
        costs = draw(MATCHINGS, edges.shape[1])
        peer = {"networkx": networkx(edges)}
        cases.append(run(f"matching {size}", costs, PerfectMatching(edges), peer))
    store("discrete_solvers", {"cases": cases}, arguments)


if __name__ == "__main__":
    main()
