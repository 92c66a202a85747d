"""Which linear solver for which graph: factor and solve ten right-hand sides, features to labels.

Two kinds of neighbour graphs, k = 10, Gaussian self-tuned weights, 1 % of the nodes labelled:
`spread` points are isotropic in 64 dimensions (an expander, solved in few steps), `flat` ones lie
on a surface of two dimensions (slow for iterations, kind to factorisations). Float64, relative
residual 1e-8. Times are of the processor, for OMP_NUM_THREADS=1: two of the four know one thread
only. A method that took over five seconds at one size is left out at larger ones.
"""

import time
from typing import Any

import torch
from _measure import argument_parser, store

from weft.graph import (
    AlgebraicMultigrid,
    Cholesky,
    ConjugateGradient,
    ExactNeighbors,
    FaissNeighbors,
    LinearSolver,
    SparseLU,
    knn_graph,
)
from weft.graph._boundary import FreeSystem

K, CLASSES = 10, 10
SIZES = (300, 1_000, 3_000, 10_000, 30_000, 100_000, 200_000)
SOLVERS: dict[str, LinearSolver] = {
    "Cholesky": Cholesky(),
    "ConjugateGradient": ConjugateGradient(rtol=1e-8),
    "SparseLU": SparseLU(),
    "AlgebraicMultigrid": AlgebraicMultigrid(rtol=1e-8),
}
DENSE_MOST = 10_000
PATIENCE = 5.0


def points(kind: str, size: int) -> torch.Tensor:
    """Draw isotropic points in 64 dimensions, or points on a bent sheet in as many."""
    generator = torch.Generator().manual_seed(0)
    if kind == "spread":
        return torch.randn(size, 64, generator=generator)
    sheet = torch.rand(size, 2, generator=generator)
    waves = torch.randn(2, 64, generator=generator)
    return torch.sin(3 * sheet @ waves)


def system(kind: str, size: int) -> tuple[FreeSystem, torch.Tensor]:
    """Return the reduced system of Laplace learning, and its right-hand sides."""
    search = ExactNeighbors() if size <= 30_000 else FaissNeighbors(probes=8)
    graph = knn_graph(points(kind, size), K, neighbors=search)
    graph = graph.with_weights(graph.weights.double())
    known = torch.arange(size) < size // 100
    labels = torch.nn.functional.one_hot(torch.arange(size) % CLASSES, CLASSES).double()
    free = FreeSystem.of(graph, known)
    return free, free.inflow(labels)


def run(solver: LinearSolver, free: FreeSystem, rhs: torch.Tensor) -> tuple[float, float]:
    """Return the processor seconds of the factor and of the solve; the best of up to five runs."""
    best = (torch.inf, torch.inf)
    began = time.process_time()
    for _ in range(5):
        start = time.process_time()
        diagonal = free.diagonal() + 1e-6
        factor = solver.factor(free.edges, free.weights, diagonal, free.num_graphs)
        middle = time.process_time()
        solver.solve(factor, rhs)
        end = time.process_time()
        best = min(best, (middle - start, end - middle), key=sum)
        if end - began > 3:
            break
    return best


def main() -> None:
    arguments = argument_parser(__doc__).parse_args()
    result: dict[str, dict[str, Any]] = {}
    for kind in ("spread", "flat"):
        tired = {"Cholesky": DENSE_MOST}
        print(
            f"\n{kind}: processor seconds to factor and solve\n\n| nodes |",
            " | ".join(SOLVERS),
            "|",
        )
        print("|---" * (1 + len(SOLVERS)) + "|")
        result[kind] = {}
        for size in (300, 600) if arguments.quick else SIZES:
            free, rhs = system(kind, size)
            row = {}
            for name, solver in SOLVERS.items():
                if size > tired.get(name, size):
                    continue
                factor, solve = run(solver, free, rhs)
                row[name] = {"factor": factor, "solve": solve}
                if factor + solve > PATIENCE:
                    tired[name] = size
            shown = [f"{sum(row[name].values()):.2g}" if name in row else "–" for name in SOLVERS]  # noqa: RUF001
            print(f"| {size:,} |", " | ".join(shown), "|", flush=True)
            result[kind][str(size)] = row
    store("solvers", {"k": K, "classes": CLASSES, "kinds": result}, arguments)


if __name__ == "__main__":
    main()
