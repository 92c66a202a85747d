"""Solve (L(w) + diag t) U = B for plain tensors: dense Cholesky, or conjugate gradients.

A solver is a frozen object with two methods: `factor` turns one matrix into a list of tensors,
`solve` applies it to right-hand sides. Autograd is off here; `_solve.py` differentiates.
The numerics are registered operators, so that compiled code calls them whole.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weft._check import ConvergenceError
from weft.graph._edges import csr_matrix, csr_pattern, node_sums

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


@dataclass(frozen=True)
class ConjugateGradient:
    """Block conjugate gradients with Jacobi preconditioning and a certified residual.

    All columns advance together on one sparse matrix; a finished column, or one that is zero,
    rests. The recurrence's own residual cannot be believed below the rounding of its dtype, so
    the true one, B - A U, is computed in float64 at the end; where it misses `rtol` the
    iteration restarts on the remainder (iterative refinement).

    Args:
        rtol: relative residual of each column; `None` takes 1e-6 for float32, 1e-10 for float64.
        max_iterations: steps in all before `ConvergenceError`.
    """

    rtol: float | None = None
    max_iterations: int = 10_000

    def __post_init__(self) -> None:
        if self.rtol is not None and not 0 < self.rtol < 1:
            raise ValueError(f"`rtol` must lie between 0 and 1, got {self.rtol}.")
        if self.max_iterations < 1:
            raise ValueError(f"`max_iterations` must be positive, got {self.max_iterations}.")

    def factor(self, edges: Tensor, weights: Tensor, diagonal: Tensor, num_graphs: int) -> list:
        """Return the matrix in CSR: row starts, columns, weights, scaled weights, diagonal."""
        del num_graphs  # blocks are just sparsity here
        row_start, columns, edge_of = csr_pattern(edges, len(diagonal))
        # Summed in float64: the residual is computed with the matrix that was meant.
        total = node_sums(weights.double(), edges, len(diagonal)) + diagonal.double()
        root = total.rsqrt()
        scaled = weights * (root[edges[0]] * root[edges[1]]).to(weights.dtype)
        return [row_start, columns, weights[edge_of], scaled[edge_of], total]

    def solve(self, factor: list[Tensor], rhs: Tensor) -> tuple[Tensor, Tensor]:
        """Iterate until every column meets the tolerance."""
        rtol = self.rtol or (1e-6 if rhs.dtype == torch.float32 else 1e-10)
        with torch.autocast(rhs.device.type, enabled=False):  # it would round the products
            return _conjugate_gradient(*factor, rhs, rtol, self.max_iterations)


def default_solver(num_nodes: int, num_graphs: int) -> LinearSolver:
    """Return the faster solver for this size: dense to `DENSE_UP_TO` nodes, iterative above."""
    return Cholesky() if num_nodes <= DENSE_UP_TO * num_graphs else ConjugateGradient()


@torch.library.custom_op("weft::cholesky", mutates_args=())
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


@_cholesky.register_fake
def _(edges: Tensor, weights: Tensor, diagonal: Tensor, num_graphs: int) -> Tensor:
    block = len(diagonal) // num_graphs
    return weights.new_empty(num_graphs, block, block, dtype=torch.float64).mT


@torch.library.custom_op("weft::conjugate_gradient", mutates_args=())
def _conjugate_gradient(
    row_start: Tensor,
    columns: Tensor,
    weights: Tensor,
    scaled: Tensor,
    diagonal: Tensor,
    rhs: Tensor,
    rtol: float,
    max_iterations: int,
) -> tuple[Tensor, Tensor]:
    if not (diagonal > 0).all():
        raise ValueError(
            "the system must be positive definite, but its diagonal is not positive at node "
            f"{int((~(diagonal > 0)).nonzero()[0])}: give the node an edge, decay or a label."
        )
    inner = csr_matrix(row_start, columns, scaled)
    outer = csr_matrix(row_start, columns, weights.double())
    scale = _column_norms(rhs.double())
    sound = scale.isfinite()
    target = torch.where(sound, rhs.double() / torch.where(scale > 0, scale, 1.0), 0.0)
    largest = diagonal.max() if len(diagonal) else 1.0
    relative = (diagonal / largest)[:, None]
    solution = torch.zeros_like(target)
    remainder = target
    left = max_iterations
    residual = target.norm(dim=0)
    # Float32 gains about six digits before its recurrence drifts; then start afresh.
    goal = max(rtol, 1e-6) if rhs.dtype == torch.float32 else rtol
    while not (residual <= rtol).all():
        bound = (goal / 2 * residual).clamp_min(rtol / 2)
        steps, update = _iterate(inner, relative, remainder / relative.sqrt(), bound, left)
        solution = solution + update / relative.sqrt() / largest
        remainder = target - (diagonal[:, None] * solution - outer @ solution)
        previous, residual = residual, remainder.norm(dim=0)
        left -= steps
        stuck = not (residual.max() < 0.5 * previous.max())  # also stops at NaN
        if not (residual <= rtol).all() and (left <= 0 or stuck):
            raise ConvergenceError(
                f"conjugate gradients must reach a relative residual of {rtol:g}, got "
                f"{residual.max().item():.2e} after {max_iterations - left} steps: raise `rtol` or "
                "`max_iterations`, add `tau`, or solve in float64."
            )
    # An infinite gradient is no error: loss scaling looks for it and skips the step.
    solution = torch.where(sound, solution * scale, torch.nan).to(rhs.dtype)
    return solution, torch.where(sound, residual, torch.nan).to(rhs.dtype)


def _column_norms(columns: Tensor) -> Tensor:
    """Return the columns' norms, without overflow or underflow of squares."""
    if not len(columns):
        return columns.new_zeros(columns.shape[1])
    largest = columns.abs().amax(0)
    return largest * (columns / torch.where(largest > 0, largest, 1.0)).norm(dim=0)


@_conjugate_gradient.register_fake
def _(row_start, columns, weights, scaled, diagonal, rhs, rtol, max_iterations):
    return torch.empty_like(rhs), rhs.new_empty(rhs.shape[1])


def _iterate(
    adjacency: Tensor, diagonal: Tensor, rhs: Tensor, bound: Tensor, max_iterations: int
) -> tuple[int, Tensor]:
    """Solve (I - adjacency) u = rhs by the recurrence from zero, in the dtype of `adjacency`.

    The system is D^-1/2 A D^-1/2: plain steps on it are Jacobi-preconditioned steps on A. A
    column is finished when its residual there, |D^1/2 r|, is at most `bound`.
    """
    tiny = torch.finfo(adjacency.dtype).tiny
    residual = rhs.to(adjacency.dtype, copy=True)  # changed in place below
    diagonal = diagonal.to(residual.dtype)
    bound = bound.to(residual.dtype).square()
    solution = torch.zeros_like(residual)
    direction, previous = torch.zeros_like(residual), torch.full_like(bound, torch.inf)
    for step in range(max_iterations):
        squares = residual.square()
        # Zero columns, and finished ones, take a step of length zero: 0 / 0 would spoil them.
        product = torch.where((diagonal * squares).sum(0) > bound, squares.sum(0), 0.0)
        if not product.any():
            return step, solution
        direction = torch.addcmul(residual, direction, product / previous.clamp_min(tiny))
        image = torch.addmm(direction, adjacency, direction, alpha=-1)
        length = product / (direction * image).sum(0).clamp_min(tiny)
        solution.addcmul_(direction, length)
        residual.addcmul_(image, length, value=-1)
        previous = product
    return max_iterations, solution
