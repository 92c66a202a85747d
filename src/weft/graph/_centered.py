"""The centered kernel: label spreading on a weight matrix from which the mean is taken out.

Knows graphs; SciPy finds one eigenvalue.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from scipy.sparse.linalg import eigsh
from torch import Tensor

from weft._check import on_values
from weft.graph._edges import laplacian_product, node_sums
from weft.graph._equation import Equation, Problem
from weft.graph._graph import Graph


@dataclass(frozen=True)
class CenteredKernel(Equation):
    """Solve level * u = P W P u at free nodes, with centred labels where known; P takes out means.

    The largest eigenvector of W is nearly constant and says nothing of the classes; centring
    removes it. Made for data of high dimension, where all distances are alike. Scores are signed.
    Differentiable to any order in weights, labels and `level`.

    Args:
        level: above the largest eigenvalue of W among free nodes; a number or a tensor of one. By
            default 1.05 times that of all of W (the largest over all graphs side by side), which
            the gradient takes for a constant.

    Source: Mai, Couillet, ICML 2018. The GraphLearning package takes 1.05 times the largest
        eigenvalue of P W P instead, found from a random start; where that is a level here too,
        as on most graphs of neighbours, passing it gives the same scores.
    """

    signed: ClassVar[bool] = True
    level: float | Tensor | None = None

    def solve(self, problem: Problem) -> Float[Tensor, "n c"]:
        """Solve the sparse system level - W, and correct for the centring, which has rank two.

        On the free nodes P W P = W - B C B^T with B = (1, d) and C = (-s/n^2, 1/n; 1/n, 0), where
        d are the degrees and s their sum. With A = level - W, the solution of
        (A + B C B^T) x = f  is  x = Z_f - Z_B (1 + C B^T Z_B)^-1 C B^T Z_f,  Z = A^-1 (f, B).
        """
        graph, known = problem.graph, problem.known
        free_i, free_j = ~known[graph.edges]
        inner = torch.where(free_i & free_j, graph.weights, 0.0)
        level = self._level(graph, inner)
        shape = (graph.num_graphs, -1)
        mask, degrees = known.to(level.dtype).view(*shape, 1), graph.degrees()
        blocks = problem.labels.view(*shape, problem.labels.shape[1])
        size = blocks.shape[1]
        mean = blocks.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp_min(1)
        labels = (mask * (blocks - mean)).view(problem.labels.shape)
        image = degrees[:, None] * labels - laplacian_product(graph.weights, labels, graph.edges)
        image = image.view(blocks.shape)
        rhs = (1 - mask) * (image - image.mean(1, keepdim=True))
        total = degrees.view(shape).sum(1)
        share = torch.full_like(total, 1 / size)
        core = torch.stack([-total / size**2, share, share, torch.zeros_like(total)], 1)
        core = core.view(-1, 2, 2)
        basis = torch.stack([torch.ones_like(degrees), degrees], 1).view(*shape, 2) * (1 - mask)

        # Labelled nodes stay in the system, cut off, with zero for a solution. level - W is the
        # Laplacian plus level - degrees, the degrees counted among free nodes.
        diagonal = level - node_sums(inner, graph.edges, graph.num_nodes)
        both = torch.cat([rhs, basis], 2).flatten(0, 1)
        solved = problem.solve(inner, torch.where(known, level, diagonal), both)
        solved = solved.view(*shape, both.shape[1])
        particular, moved = solved[..., :-2], solved[..., -2:]
        across = core @ basis.mT
        identity = torch.eye(2, dtype=level.dtype, device=level.device)
        pull = torch.linalg.solve(identity + across @ moved, across @ particular)
        return labels + (particular - moved @ pull).reshape(labels.shape)

    def _level(self, graph: Graph, inner: Tensor) -> Tensor:
        """Return the level as a tensor, after a look at the eigenvalue it must exceed."""
        if self.level is None:
            largest = _largest_eigenvalue(graph.weights, graph.edges, graph.num_nodes)
            return graph.weights.new_tensor(1.05 * largest if largest > 0 else 1.0)
        largest = _largest_eigenvalue(inner, graph.edges, graph.num_nodes)
        weights = graph.weights
        level = torch.as_tensor(self.level, dtype=weights.dtype, device=weights.device).reshape(())
        if not level.item() > largest:
            raise ValueError(
                "`level` must be above the largest eigenvalue of the weights among free nodes, "
                f"{largest:g}, got {level.item():g}: None takes a level that is."
            )
        return level


@on_values
def _largest_eigenvalue(
    weights: Float[Tensor, " e"], edges: Int[Tensor, "2 e"], num_nodes: int
) -> float:
    """Return the largest eigenvalue of W; SciPy iterates on the CPU, from a fixed start."""
    if not weights.any():
        return 0.0
    (i, j), values = edges.cpu().numpy(), weights.double().cpu().numpy()
    half = sparse.coo_array((values, (i, j)), (num_nodes, num_nodes)).tocsr()
    matrix = half + half.T
    if num_nodes <= 100:
        return float(np.linalg.eigvalsh(matrix.toarray())[-1])
    return float(
        eigsh(matrix, k=1, which="LA", v0=np.ones(num_nodes), return_eigenvectors=False)[0]
    )
