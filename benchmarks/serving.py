"""One query against a frozen graph of 100,000 anchors takes less than 5 ms on one core.

The anchors are ten classes, each a smooth image of four dimensions in 64 with a little noise; the
first hundredth has labels. A query comes alone: its 25 nearest anchors are found exactly, weighed,
and their frozen scores averaged. Peers find the neighbours only: the same search in float64
throughout, and the flat index of faiss, where it is installed.

The second table adds one more labelled anchor, beside solving the grown graph anew with the same
solver. Both leave out the search for all neighbours, which building anew would take as well.
Run it with OMP_NUM_THREADS=1.
"""

import itertools
from collections.abc import Callable
from dataclasses import asdict

import torch
from _measure import Timing, argument_parser, interleave, store
from torch import Tensor
from torch.nn.functional import one_hot

from weft.graph import (
    AnchorGraph,
    Cholesky,
    ConjugateGradient,
    ExactNeighbors,
    FaissNeighbors,
    LinearSolver,
    Neighbors,
    SparseLU,
    laplace_learning,
)

K, WIDTH, CLASSES = 25, 64, 10


def samples(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return features and classes of a mixture whose classes are curved sheets."""
    maps = torch.Generator().manual_seed(0)
    bend = torch.randn(CLASSES, 4, WIDTH, generator=maps)
    shift = torch.randn(CLASSES, 1, WIDTH, generator=maps)
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(count) % CLASSES
    inner = torch.randn(count, 4, generator=generator)
    features = torch.empty(count, WIDTH)
    for c in range(CLASSES):
        features[classes == c] = torch.tanh(inner[classes == c] @ bend[c] / 2) + shift[c]
    return features + 0.05 * torch.randn(count, WIDTH, generator=generator), classes


def search() -> Neighbors:
    """Return the search for the anchors' own neighbours, which is not what is timed."""
    try:
        import faiss  # noqa: F401
    except ImportError:
        return ExactNeighbors()
    return FaissNeighbors()


def peers(graph: AnchorGraph, queries: Callable[[], Tensor]) -> dict[str, Callable[[], object]]:
    points = graph.spaces[0].points
    wide = points.double()

    def in_float64() -> Tensor:
        return torch.cdist(queries().double(), wide).topk(K, largest=False).indices

    found: dict[str, Callable[[], object]] = {"search in float64": in_float64}
    try:
        import faiss
    except ImportError as error:
        print(f"faiss skipped: {error}")
        return found
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatL2(WIDTH)
    index.add(points.numpy())
    return {**found, "search by faiss, flat": lambda: index.search(queries().numpy(), K)}


def build(num_anchors: int, solver: LinearSolver | None = None) -> AnchorGraph:
    features, classes = samples(num_anchors, seed=1)
    known = torch.arange(num_anchors) < max(CLASSES, num_anchors // 100)
    labels = one_hot(classes, CLASSES).float()
    return AnchorGraph.build(
        features, labels, known, K, tau=0.01, neighbors=search(), solver=solver
    )


def serve(num_anchors: int, rounds: int) -> dict[str, object]:
    graph = build(num_anchors)
    asked, truth = samples(500, seed=2)
    right = (graph.query(asked).argmax(1) == truth).float().mean().item()
    turn = itertools.count()

    def one() -> Tensor:
        at = next(turn) % len(asked)
        return asked[at : at + 1]

    methods: dict[str, Callable[[], object]] = {"query": lambda: graph.query(one())}
    timings = interleave({**methods, **peers(graph, one)}, rounds=rounds, budget=30)
    print(f"\n{num_anchors} anchors, accuracy {right:.3f}\n{'':28}{'ms':>10}{'ratio':>8}")
    return {"anchors": num_anchors, "accuracy": right, "methods": table(timings, "query")}


def grow(num_anchors: int, solver: LinearSolver, rounds: int) -> dict[str, object]:
    graph = build(num_anchors, solver)
    asked, truth = samples(1, seed=2)
    label = one_hot(truth[0], CLASSES).float()
    grown = graph.with_anchor(asked[0], label)

    def anew() -> Tensor:
        return laplace_learning(
            grown.graph, grown.labels, grown.known, tau=0.01, normalization=None, solver=solver
        )

    gap = (grown.scores - anew()).abs().max().item()
    name = f"added, {type(solver).__name__}"
    methods = {name: lambda: graph.with_anchor(asked[0], label), "solved anew": anew}
    timings = interleave(methods, rounds=rounds, budget=30)
    print(f"\n{num_anchors} anchors, largest difference {gap:.1e}\n{'':28}{'ms':>10}{'ratio':>8}")
    return {"anchors": num_anchors, "difference": gap, "methods": table(timings, name)}


def table(timings: dict[str, Timing], unit: str) -> dict[str, object]:
    rows = {}
    for name, timing in timings.items():
        ratio = timing.wall / timings[unit].wall
        print(f"{name:28}{timing.wall * 1e3:10.3f}{ratio:8.2f}")
        rows[name] = {**asdict(timing), "ratio": ratio}
    return rows


def main() -> None:
    arguments = argument_parser(__doc__).parse_args()
    sizes, rounds = ((500,), 3) if arguments.quick else ((1_000, 10_000, 100_000), 201)
    cases = [serve(size, rounds) for size in sizes]
    solvers = ((500, Cholesky()), (500, ConjugateGradient()))
    if not arguments.quick:
        solvers = ((2_000, Cholesky()), (10_000, SparseLU()), (10_000, ConjugateGradient()))
    grown = [grow(size, solver, min(rounds, 11)) for size, solver in solvers]
    store("serving", {"k": K, "width": WIDTH, "cases": cases, "grown": grown}, arguments)


if __name__ == "__main__":
    main()
