"""The graph layer, features to gradient, is faster than its peers, and its gradient is exact.

One step is: k nearest neighbours, self-tuned Gaussian weights, Laplace learning from n / 6
labelled rows, the mean negative log score of the others, and its gradient in the features.
Every method gets the same features and the same k; methods take turns; a ratio is a method's
median time over weft's. The error is the gradient's, relative, against a dense float64 oracle.

Peers
- dense: plain PyTorch with (n, n) matrices, torch.linalg.solve and autograd through it, float32.
- cvxpylayers, where installed: the same problem as a convex program. Its graph is weft's, and
  building its program for that graph is not counted. Only to 250 rows: at 500 the building
  alone takes half a minute.
- authors, with --peer: the layer that the GLL paper released. PATH is a folder with its GLL.py;
  `graphlearning` and `annoy` must be installed. As released its neighbours are approximate; it
  is timed a second time with the exact search that `graphlearning` also has.
"""

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from _measure import argument_parser, interleave, store
from torch import Tensor
from torch.nn.functional import nll_loss, normalize, one_hot

from weft.graph import knn_graph, laplace_learning

K = 24  # other points; the authors count a point as its own neighbour and say 25
WIDTH = 128
CLASSES = 10
LARGEST_PROGRAM = 250


@dataclass(frozen=True)
class Problem:
    """Labelled rows first, classes in turn, one wide cluster per class."""

    features: Tensor
    labels: Tensor
    num_known: int

    @classmethod
    def of_size(cls, num_nodes: int) -> "Problem":
        """Draw features and labels."""
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(num_nodes) % CLASSES
        centres = torch.randn(CLASSES, WIDTH, generator=generator)
        noise = torch.randn(num_nodes, WIDTH, generator=generator)
        return cls(normalize(centres[labels] + 3 * noise), labels, num_nodes // 6)

    def targets(self, dtype: torch.dtype) -> Tensor:
        """Return one-hot labels."""
        return one_hot(self.labels, CLASSES).to(dtype)


Method = Callable[[Tensor, Problem], Tensor]
"""Maps features (n, d) and the problem to the scores of the rows without label."""


def gradient(method: Method, problem: Problem, dtype: torch.dtype = torch.float32) -> Tensor:
    """Run one step."""
    features = problem.features.to(dtype).requires_grad_()
    scores = method(features, problem)
    loss = nll_loss((scores + 1e-8).log(), problem.labels[problem.num_known :])
    return torch.autograd.grad(loss, features)[0]


def weft(features: Tensor, problem: Problem) -> Tensor:
    known = torch.arange(len(features)) < problem.num_known
    scores = laplace_learning(
        knn_graph(features, K), problem.targets(features.dtype), known, normalization=None
    )
    return scores[problem.num_known :]


def dense(features: Tensor, problem: Problem) -> Tensor:
    squared = torch.cdist(features, features).square()
    nearest = squared.detach().clone().fill_diagonal_(torch.inf).topk(K, largest=False).indices
    listed = torch.zeros_like(squared, dtype=torch.bool).scatter_(1, nearest, True)
    kth = squared.gather(1, nearest[:, -1:])
    weights = torch.exp(-4 * squared / (kth * kth.T).sqrt())
    weights = torch.where(listed | listed.T, weights, 0.0)
    laplacian = torch.diag(weights.sum(1)) - weights
    m = problem.num_known
    flow = weights[m:, :m] @ problem.targets(features.dtype)[:m]
    return torch.linalg.solve(laplacian[m:, m:], flow)


def convex_program(problem: Problem) -> Method:
    """Build  min sum_ij w_ij |u_i - u_j|^2,  u = labels where known, for cvxpylayers."""
    import cvxpy
    import numpy as np
    from cvxpylayers.torch import CvxpyLayer
    from scipy import sparse

    m, num_nodes = problem.num_known, len(problem.labels)
    i, j = knn_graph(problem.features, K).edges.numpy()
    edge = np.arange(len(i))
    signs = np.repeat([1.0, -1.0], len(i))
    ends = (signs, (np.tile(edge, 2), np.concatenate([i, j])))
    incidence = sparse.csr_array(ends, (len(i), num_nodes))
    labels = problem.targets(torch.float64)[:m].numpy()
    roots = cvxpy.Parameter((len(i), 1), nonneg=True)
    free = cvxpy.Variable((num_nodes - m, CLASSES))
    differences = incidence[:, m:] @ free + incidence[:, :m] @ labels
    energy = cvxpy.sum_squares(cvxpy.multiply(roots @ np.ones((1, CLASSES)), differences))
    layer = CvxpyLayer(cvxpy.Problem(cvxpy.Minimize(energy)), [roots], [free])

    def solve(features: Tensor, _: Problem) -> Tensor:
        graph = knn_graph(features, K)
        return layer(graph.weights.sqrt()[:, None])[0]

    return solve


def authors_layer(folder: Path, search: str) -> Method:
    """Import the released layer from a folder, with the neighbour search of that name."""
    sys.path.insert(0, str(folder))
    import GLL
    import graphlearning

    released = graphlearning.weightmatrix.knnsearch

    def solve(features: Tensor, problem: Problem) -> Tensor:
        graphlearning.weightmatrix.knnsearch = lambda *args, method, **kwargs: released(
            *args, method=search, **kwargs
        )
        labels = problem.targets(torch.float64)[: problem.num_known]
        return GLL.LaplaceLearningSparseHard.apply(features, labels)

    return solve


def methods_for(problem: Problem, peer: Path | None) -> dict[str, Method]:
    methods: dict[str, Method] = {"weft": weft, "dense": dense}
    if len(problem.labels) <= LARGEST_PROGRAM:
        try:
            methods["cvxpylayers"] = convex_program(problem)
        except ImportError as error:
            print(f"cvxpylayers skipped: {error}")
    if peer is not None:
        methods["authors"] = authors_layer(peer, "annoy")
        methods["authors, exact neighbours"] = authors_layer(peer, "brute")
    return methods


def compare(num_nodes: int, peer: Path | None, rounds: int) -> dict[str, object]:
    problem = Problem.of_size(num_nodes)
    exact = gradient(dense, problem, torch.float64)
    methods = methods_for(problem, peer)
    errors = {
        name: ((gradient(method, problem) - exact).norm() / exact.norm()).item()
        for name, method in methods.items()
    }
    steps = {name: partial(gradient, method, problem) for name, method in methods.items()}
    timings = interleave(steps, rounds=rounds)
    own = timings["weft"]
    print(f"\nn = {num_nodes}\n{'':28}{'ms':>10}{'cpu ms':>10}{'ratio':>8}{'cpu':>8}{'error':>10}")
    rows = {}
    for name, timing in timings.items():
        wall, cpu = timing.wall / own.wall, timing.cpu / own.cpu
        print(
            f"{name:28}{timing.wall * 1e3:10.1f}{timing.cpu * 1e3:10.1f}"
            f"{wall:8.1f}{cpu:8.1f}{errors[name]:10.1e}"
        )
        rows[name] = {
            **asdict(timing),
            "ratio": wall,
            "cpu_ratio": cpu,
            "gradient_error": errors[name],
        }
    return rows


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--peer", type=Path, help="folder with the authors' GLL.py")
    arguments = parser.parse_args()
    # Where cvxpylayers takes part comes last: its threads stay, and slow down all that follows.
    sizes = (60, 90) if arguments.quick else (500, 1500, 2500, 5000, LARGEST_PROGRAM)
    rounds = 2 if arguments.quick else 31
    result = {str(size): compare(size, arguments.peer, rounds) for size in sizes}
    store("layer", {"k": K, "width": WIDTH, "classes": CLASSES, "sizes": result}, arguments)


if __name__ == "__main__":
    main()
