"""A batch is solved many times faster than by a loop in Python; a layer on it costs little more.

Batches of 70 grids with vertex costs, 70 grids with costs on arcs right and down, 128 assignments,
and 32 perfect matchings of grids; all methods get the same costs, in single precision as a network
makes them, and their solutions must cost the same. `ratio` is a method's median time over that of
weft's solver called plainly.

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
- hungarian: assignments by shortest augmenting paths in plain Python, on lists.
- networkx: matchings by blossoms in plain Python.
- PyEPO, with --peer: its shortest path on a grid, right and down, by OR-Tools, instance by instance
  as its layers do, and assignments as a linear program of its kind. PATH is a folder with `pyepo`,
  `ortools` and what they need, such as the site-packages of a virtual environment.
"""

import os
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _discrete_peers import (
    Method,
    heap,
    hungarian,
    lists,
    networkx,
    pyepo_assignments,
    pyepo_paths,
    scipy_assignments,
    scipy_grids,
)
from _measure import argument_parser, interleave, store
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

    def value(solution: Tensor) -> Tensor:
        return (solution.double() * costs).flatten(1).sum(1)

    best = value(solver(costs))
    for peer, method in peers.items():  # NumPy and OR-Tools add up in single precision
        torch.testing.assert_close(
            value(method(costs)), best, rtol=1e-5, atol=0, msg=f"{peer} differs"
        )
    known = costs.clone().requires_grad_()
    grad = torch.randn(costs.shape, generator=torch.Generator().manual_seed(1), dtype=costs.dtype)

    def back(solution: Tensor) -> None:
        torch.autograd.grad(solution, known, grad)

    def step(rule: Rule) -> None:
        back(solve_discrete(known, solver, rule))

    timings = interleave(
        {
            **{peer: partial(method, costs) for peer, method in peers.items()},
            "warm": partial(solver, costs),  # what follows a peer finds the caches cold: left out
            "weft": partial(solver, costs),
            "forward": partial(solve_discrete, known, solver),
            "bare": lambda: back(_Bare.apply(known, solver)),
            "layer": partial(step, Identity(Projection.NONE)),
            "projected": partial(step, Identity()),
            "Blackbox": partial(step, Blackbox(1.0)),
            "cores": partial(on_all_cores, solver, costs),
        },
        rounds=rounds,
    )
    rows = {}
    del timings["warm"]
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
        return 0.8 + 8.4 * torch.rand(*shape, generator=generator)

    print(f"{'':22}{'':10}{'ms':>10}{'ratio':>8}")
    cases = []
    for size in grids:
        costs = draw(GRIDS, size, size)
        peers: dict[str, Method] = {"heap": heap, "lists": lists, "scipy": scipy_grids(size)}
        cases.append(run(f"grid {size}", costs, GridPath(), peers))
    for size in grids:
        arcs, peers = arcs_right_and_down(size), {}
        if arguments.peer is not None:
            arcs, peers["PyEPO"] = pyepo_paths(size)
        costs = draw(GRIDS, arcs.shape[1])
        cases.append(run(f"right and down {size}", costs, GraphPath(arcs, 0, size**2 - 1), peers))
    for size in matrices:
        costs = draw(ASSIGNMENTS, size, size)
        peers = {"scipy": scipy_assignments, "hungarian": hungarian}
        if arguments.peer is not None:
            peers["PyEPO"] = pyepo_assignments(size)
        cases.append(run(f"assignment {size}", costs, Assignment(), peers))
    for size in matchings:
        edges = arcs_right_and_down(size)
        costs = draw(MATCHINGS, edges.shape[1])
        peers = {"networkx": networkx(edges)}
        cases.append(run(f"matching {size}", costs, PerfectMatching(edges), peers))
    store("discrete_solvers", {"cases": cases}, arguments)


if __name__ == "__main__":
    main()
