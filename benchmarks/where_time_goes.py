"""Where a step of the graph layer spends its time, and how far each part is from the machine.

The parts of one step, features to gradient, are timed on their own, in turns with the whole
step; what the parts do not account for is autograd, checks and cold caches. Beside each part stands
the least time the machine could need for it, from what the same run measures:

- flops at the rate of a large matrix product, where the part is a matrix product;
- bytes at the rate of a large copy, where the part is a pass over memory: what must be read and
  written once if nothing stays in cache. Small graphs do stay there and can be faster than that.
  For a solve this is one of its about fifteen steps.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from _measure import Limits, argument_parser, interleave, measure_limits, store
from layer import CLASSES, WIDTH, K, Problem, gradient, weft
from torch import Tensor

from weft.graph import ConjugateGradient, ExactNeighbors, Gaussian, SelfTuned, knn_graph
from weft.graph._boundary import FreeSystem, unreached
from weft.graph._edges import edge_inner, laplacian_product, squared_distances
from weft.graph._graph import unique_edges
from weft.graph._weights import pair_weights


@dataclass(frozen=True)
class Part:
    """One part of a step, and what it has to do at least."""

    run: Callable[[], object]
    flops: float = 0.0
    bytes: float = 0.0

    def least(self, limits: Limits) -> float:
        """Return the seconds that the machine's limits ask for."""
        return max(self.flops / limits.float32, self.bytes / limits.copy)


def parts_of_step(problem: Problem) -> dict[str, Part]:
    features, num_nodes = problem.features, len(problem.labels)
    labels = problem.targets(torch.float32)
    node = torch.arange(num_nodes)
    known = node < problem.num_known
    found = ExactNeighbors()(features, K)
    edges, keys = unique_edges(node.repeat_interleave(K), found.reshape(-1), num_nodes)
    squared = squared_distances(features, edges).requires_grad_()
    kth = found[:, -1]
    key = torch.minimum(node, kth) * num_nodes + torch.maximum(node, kth)

    def weigh() -> Tensor:
        kth_squared = squared[torch.searchsorted(keys, key)]
        i, j = edges
        return pair_weights(squared, kth_squared[i], kth_squared[j], Gaussian(), SelfTuned())

    graph = knn_graph(features, K)
    sources = torch.where(known, torch.inf, 0.0)

    def reduce_system() -> FreeSystem:
        unreached(graph, sources)
        system = FreeSystem.of(graph, known)
        system.diagonal(), system.inflow(labels)
        return system

    system, solver = reduce_system(), ConjugateGradient()
    matrix = system.edges, system.weights, system.diagonal(), 1
    factor = solver.factor(*matrix)
    scores = solver.solve(factor, system.inflow(labels))[0]
    incoming = -labels[problem.num_known :] / (scores + 1e-8) / len(scores)
    adjoint = solver.solve(factor, incoming)[0]
    on_edges = torch.rand(edges.shape[1])
    num_edges, num_free = edges.shape[1], system.edges.shape[1]
    rows = 4 * num_nodes * WIDTH  # bytes of the features
    sparse = num_free * (4 + 4) * 2 + 3 * 4 * len(scores) * CLASSES  # one product of the solver
    return {
        "neighbours": Part(lambda: ExactNeighbors()(features, K), flops=2 * num_nodes**2 * WIDTH),
        "union of edges": Part(
            lambda: unique_edges(node.repeat_interleave(K), found.reshape(-1), num_nodes),
            bytes=num_nodes * K * 8 + num_edges * 24,
        ),
        "distances": Part(
            lambda: squared_distances(features, edges), bytes=rows + num_edges * (16 + 4)
        ),
        "weights and their backward": Part(
            lambda: torch.autograd.grad(weigh(), squared, on_edges), bytes=num_edges * 4 * 6
        ),
        "reachable, free system": Part(reduce_system, bytes=num_edges * (16 + 4) * 2),
        "factor": Part(lambda: solver.factor(*matrix), bytes=num_free * (16 + 4 + 2 * 16)),
        "solve": Part(lambda: solver.solve(factor, system.inflow(labels)), bytes=sparse),
        "adjoint solve": Part(lambda: solver.solve(factor, incoming), bytes=sparse),
        "adjoint on edges": Part(
            lambda: edge_inner(scores, adjoint, system.edges),
            bytes=8 * len(scores) * CLASSES + num_free * (16 + 4),
        ),
        "distances' backward": Part(
            lambda: laplacian_product(on_edges, features, edges),
            bytes=2 * rows + num_edges * (16 + 4),
        ),
    }


def break_down(num_nodes: int, limits: Limits, rounds: int) -> dict[str, object]:
    problem = Problem.of_size(num_nodes)
    parts = parts_of_step(problem)
    runs = {name: part.run for name, part in parts.items()}
    timings = interleave(runs | {"whole step": lambda: gradient(weft, problem)}, rounds=rounds)
    whole = timings.pop("whole step")
    print(f"\nn = {num_nodes}\n{'':28}{'ms':>10}{'share':>8}{'limit ms':>10}{'x limit':>9}")
    rows = {}
    for name, timing in timings.items():
        least = parts[name].least(limits)
        print(
            f"{name:28}{timing.wall * 1e3:10.2f}{timing.wall / whole.wall:8.0%}"
            f"{least * 1e3:10.2f}{timing.wall / least:9.1f}"
        )
        rows[name] = {"wall": timing.wall, "cpu": timing.cpu, "least": least}
    rest = whole.wall - sum(timing.wall for timing in timings.values())
    print(f"{'rest':28}{rest * 1e3:10.2f}{rest / whole.wall:8.0%}")
    print(f"{'whole step':28}{whole.wall * 1e3:10.2f}")
    return {"parts": rows, "rest": rest, "whole": whole.wall}


def main() -> None:
    arguments = argument_parser(__doc__).parse_args()
    limits = measure_limits(200, 2**20) if arguments.quick else measure_limits()
    print(
        f"matrix product {limits.float32 / 1e9:.0f} GFLOP/s in float32, "
        f"{limits.float64 / 1e9:.0f} in float64; copy {limits.copy / 1e9:.1f} GB/s"
    )
    sizes, rounds = ((700,), 2) if arguments.quick else ((1500, 5000), 21)
    result = {str(size): break_down(size, limits, rounds) for size in sizes}
    settings = {"k": K, "width": WIDTH, "classes": CLASSES}
    store("where_time_goes", {**settings, "sizes": result}, arguments)


if __name__ == "__main__":
    main()
