"""Labels along paths: the nearest label by path length, and sparse label propagation.

Both give piecewise constant scores, so there is no gradient. Knows graphs; SciPy finds paths.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import sparse
from scipy.sparse import csgraph
from torch import Tensor

from weft._check import on_values
from weft.graph._equation import Equation, Problem

Length = Callable[[Float[Tensor, " e"]], Float[Tensor, " e"]]
"""From the weights of edges to their lengths, not negative; infinite for no edge."""


def gaussian_length(weights: Float[Tensor, " e"]) -> Float[Tensor, " e"]:
    """Return (-log w)^1/2: up to a factor, the scaled distance that a Gaussian kernel was given."""
    return weights.clamp_max(1.0).log().neg().sqrt()


@dataclass(frozen=True)
class NearestLabel(Equation):
    """Each node takes the label of the labelled node that the shortest path leads to.

    Without gradient: the scores are labels.

    Args:
        length: of an edge, from its weight: `gaussian_length`, or `torch.reciprocal`; for weights
            that are distances already, `torch.clone`, which is what the GraphLearning package does
            with any weights.

    Source: Dijkstra's algorithm; as a method for few labels, Calder et al., ICML 2020.
    """

    differentiable: ClassVar[bool] = False
    length: Length = gaussian_length

    def solve(self, problem: Problem) -> Float[Tensor, "n c"]:
        """Search from all labels at once."""
        lengths = self.length(problem.graph.weights)
        return problem.labels[_nearest(problem.graph.edges, lengths, problem.known)]


@on_values
def _nearest(
    edges: Int[Tensor, "2 e"], lengths: Float[Tensor, " e"], known: Bool[Tensor, " n"]
) -> Int[Tensor, " n"]:
    """Return the nearest known node of each, itself where none can be reached."""
    (i, j), length, start = edges.cpu().numpy(), lengths.double().cpu().numpy(), known.cpu().numpy()
    if not (length >= 0).all():  # also refuses nan
        raise ValueError(
            f"`length` must map weights to lengths that are not negative, got {np.min(length):g}: "
            "take torch.reciprocal, or scale the weights to at most one."
        )
    own = np.arange(len(start))
    if not start.any():
        return torch.from_numpy(own).to(edges.device)
    passable = np.isfinite(length)
    matrix = sparse.coo_array(
        (length[passable], (i[passable], j[passable])), (len(start), len(start))
    )
    _, _, source = csgraph.dijkstra(
        matrix.tocsr(), directed=False, indices=own[start], min_only=True, return_predecessors=True
    )
    nearest = np.where(source >= 0, source, own)
    return torch.from_numpy(nearest.astype(np.int64)).to(edges.device)


@dataclass(frozen=True)
class SparsePropagation(Equation):
    """Sparse label propagation: minimise sum_ij w_ij |u_i - u_j| with u = labels where known.

    The limit p = 1 of `PLaplace`, by primal-dual steps. Scores change across few edges only;
    stopped early, as here, they are not yet constant between them, and may leave [0, 1]. Without
    gradient.

    Args:
        steps: primal-dual steps.

    Source: Jung, Hero, Mara, Jahromi, arXiv 1612.01414, algorithm 1. The GraphLearning package
        takes twice the primal step, with which the iteration need not converge.
    """

    signed: ClassVar[bool] = True
    differentiable: ClassVar[bool] = False
    steps: int = 100

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"`steps` must be at least 1, got {self.steps}.")

    def solve(self, problem: Problem) -> Float[Tensor, "n c"]:
        """Alternate: nodes follow the flow out of them, flows the differences, cut to one."""
        graph, labels, known = problem.graph, problem.labels, problem.known[:, None]
        i, j = graph.edges
        degrees = graph.degrees()[:, None]
        step = 1 / torch.where(degrees > 0, degrees, 1.0)
        scores = torch.zeros_like(labels)
        flow = torch.zeros_like(graph.weights)[:, None].repeat(1, labels.shape[1])
        for _ in range(self.steps):
            carried = graph.weights[:, None] * flow
            out = (
                torch.zeros_like(labels).index_add(0, i, carried).index_add(0, j, carried, alpha=-1)
            )
            moved = torch.where(known, labels, scores - step * out)
            ahead = 2 * moved - scores
            flow = (flow + (ahead[i] - ahead[j]) / 2).clamp(-1, 1)
            scores = moved
        return scores
