"""Solve (L(w) + diag t) U = B for plain tensors: what a solver is, and dense Cholesky.

A solver is a frozen object with two methods: `factor` turns one matrix into a list of tensors,
`solve` applies it to right-hand sides. Autograd is off here; `_solve.py` differentiates.
The numerics are registered operators, so that compiled code calls them whole.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weft.graph._conjugate_gradient import ConjugateGradient
from weft.graph._edges import node_sums
from weft.graph._operator import operator

DENSE_UP_TO = 500
"""Nodes per graph up to which dense Cholesky is the default: measured crossover on a CPU."""


class LinearSolver(Protocol):
    """Factors a matrix once and solves with it any number of times."""

    def factor(
        self,
        edges: Int[Tensor, "2 e"],
        weights: Float[Tensor, " e"],
        diagonal: Float[Tensor, " n"],
        num_graphs: int,
    ) -> list[Tensor]:
        """Prepare L(weights) + diag(diagonal), symmetric and positive definite."""
        ...

    def solve(
        self, factor: list[Tensor], rhs: Float[Tensor, "n c"]
    ) -> tuple[Float[Tensor, "n c"], Float[Tensor, " c"]]:
        """Return the solution and the relative residual of each column (empty if exact)."""
        ...


@dataclass(frozen=True)
class Cholesky:
    """Dense Cholesky factorisation: exact, nothing to choose; memory n^2 and work n^3 / 3.

    In float64 throughout: a cluster that hangs on weights a thousandth of its degrees loses
    digits to the factor that float32 does not have. Graphs side by side in equal blocks are
    factored as one batch.
    """

    def factor(self, edges: Tensor, weights: Tensor, diagonal: Tensor, num_graphs: int) -> list:
        """Return the lower factor, (num_graphs, n, n)."""
        return [_cholesky(edges, weights, diagonal, num_graphs)]

    def solve(self, factor: list[Tensor], rhs: Tensor) -> tuple[Tensor, Tensor]:
        """Solve by two triangular systems."""
        (lower,) = factor
        blocks = rhs.view(len(lower), lower.shape[1], rhs.shape[1])
        solution = torch.cholesky_solve(blocks.double(), lower).to(rhs.dtype)
        return solution.reshape(rhs.shape), rhs.new_zeros(0)


def default_solver(num_nodes: int, num_graphs: int) -> LinearSolver:
    """Return the faster solver for this size: dense to `DENSE_UP_TO` nodes, iterative above."""
    return Cholesky() if num_nodes <= DENSE_UP_TO * num_graphs else ConjugateGradient()


@operator("cholesky")
def _cholesky(edges: Tensor, weights: Tensor, diagonal: Tensor, num_graphs: int) -> Tensor:
    num_nodes = len(diagonal)
    block = num_nodes // num_graphs
    i, j = edges
    graph = i // block if block else i
    weights = weights.double()
    matrix = weights.new_zeros(num_graphs, block, block)
    flat = matrix.view(-1)
    # Only the lower triangle is read: entry (j, i) of its block.
    flat[graph * block * block + (j % block) * block + i % block] = -weights if block else weights
    matrix.diagonal(dim1=1, dim2=2).copy_(
        (node_sums(weights, edges, num_nodes) + diagonal.double()).view(num_graphs, block)
    )
    lower, _ = torch.linalg.cholesky_ex(matrix)
    # A singular matrix may as well pass with a last pivot that is nothing but rounding.
    pivots = lower.diagonal(dim1=1, dim2=2).square()
    rounding = max(8, block) * torch.finfo(pivots.dtype).eps
    sound = pivots > rounding * matrix.diagonal(dim1=1, dim2=2)
    if not sound.all():
        raise ValueError(
            "the system must be positive definite, but its Cholesky factorisation broke down at "
            f"row {int((~sound).nonzero()[0, 1])} of its graph: a component without label or "
            "decay, or weights beyond the precision; label one of its nodes or pass a larger "
            "`tau`."
        )
    return lower.mT.contiguous().mT  # column-major, as LAPACK leaves it and as declared below


@torch.library.register_fake("weft::cholesky")
def _(edges: Tensor, weights: Tensor, diagonal: Tensor, num_graphs: int) -> Tensor:
    block = len(diagonal) // num_graphs
    return weights.new_empty(num_graphs, block, block, dtype=torch.float64).mT
