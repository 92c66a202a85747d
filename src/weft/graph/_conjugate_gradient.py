"""Block conjugate gradients on a sparse matrix, in an order and a precision that spare memory.

A solver as in `_linear_solvers.py`. On a large graph a step costs what it reads: there the nodes
are brought into an order in which neighbours are near, and the steps run in float32. What is
returned is certified in float64 either way.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from scipy.sparse import csgraph
from torch import Tensor

from weft._check import ConvergenceError
from weft.graph._edges import csr_matrix, csr_pattern, node_sums
from weft.graph._operator import operator

LARGE = 20_000
"""Nodes above which order and precision pay: below, the matrix stays in a processor's cache."""

_ROWS = 2**20
"""Rows of the matrix that are brought to float64 at once, for the residual."""


@dataclass(frozen=True)
class ConjugateGradient:
    """Block conjugate gradients with Jacobi preconditioning and a certified residual.

    All columns advance together on one sparse matrix; a finished column, or one that is zero,
    rests. The recurrence's own residual cannot be believed below the rounding of its dtype, so
    the true one, B - A U, is computed in float64 at the end; where it misses `rtol` the
    iteration restarts on the remainder (iterative refinement). It must meet `rtol` twice: as it
    is, and with each row divided by the matrix's diagonal. Where weights differ by decades, as
    `ProperlyWeighted` makes them, a few rows would else hide the errors of all others.

    Above 20,000 nodes the steps run in float32 whatever the dtype, and on a CPU the nodes are
    put in reverse Cuthill-McKee order; both change the way to the solution, not its tolerance.

    Args:
        rtol: relative residual of each column, in either norm; `None` takes 1e-6 for float32,
            1e-10 for float64.
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
        """Return the matrix in CSR: row starts, columns, weights, scaled weights, diagonal.

        Rows and columns are in the order of the sixth tensor, or in the graph's if it is empty.
        """
        del num_graphs  # blocks are just sparsity here
        num_nodes = len(diagonal)
        row_start, columns, edge_of = csr_pattern(edges, num_nodes)
        # Summed in float64: the residual is computed with the matrix that was meant.
        total = node_sums(weights.double(), edges, num_nodes) + diagonal.double()
        root = total.rsqrt()
        scaled = weights * (root[edges[0]] * root[edges[1]]).to(weights.dtype)
        order = columns[:0].long()
        if num_nodes > LARGE:
            scaled = scaled.float()
            if columns.device.type == "cpu":
                order = _cuthill_mckee(row_start, columns)
                row_start, columns, entry = _permuted(row_start, columns, order)
                edge_of, total = edge_of[entry], total[order]
        return [row_start, columns, weights[edge_of], scaled[edge_of], total, order]

    def solve(self, factor: list[Tensor], rhs: Tensor) -> tuple[Tensor, Tensor]:
        """Iterate until every column meets the tolerance."""
        rtol = self.rtol or (1e-6 if rhs.dtype == torch.float32 else 1e-10)
        *matrix, order = factor
        with torch.autocast(rhs.device.type, enabled=False):  # it would round the products
            if not len(order):
                return _conjugate_gradient(*matrix, rhs, rtol, self.max_iterations)
            solution, residual = _conjugate_gradient(*matrix, rhs[order], rtol, self.max_iterations)
            return torch.empty_like(solution).index_copy_(0, order, solution), residual


def _cuthill_mckee(row_start: Tensor, columns: Tensor) -> Tensor:
    """Return the nodes in reverse Cuthill-McKee order: neighbours get near numbers."""
    ones = np.ones(len(columns), np.int8)
    size = (len(row_start) - 1, len(row_start) - 1)
    pattern = sparse.csr_array((ones, columns.numpy(), row_start.numpy()), size)
    order = csgraph.reverse_cuthill_mckee(pattern, symmetric_mode=True)
    return torch.from_numpy(order.astype(np.int64))


def _permuted(row_start: Tensor, columns: Tensor, order: Tensor) -> tuple[Tensor, ...]:
    """Return the CSR pattern with rows and columns in another order, and where entries were."""
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    count = row_start.diff()[order]
    start = torch.nn.functional.pad(count.cumsum(0), (1, 0))
    entry = (row_start[order] - start[:-1]).repeat_interleave(count)
    entry += torch.arange(len(columns))
    return start.int(), place[columns[entry]].int(), entry


@operator("conjugate_gradient")
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
    scale = _column_norms(rhs.double())
    sound = scale.isfinite()
    target = torch.where(sound, rhs.double() / torch.where(scale > 0, scale, 1.0), 0.0)
    largest = diagonal.max() if len(diagonal) else 1.0
    relative = (diagonal / largest)[:, None]
    norms = _both_norms(target, relative)
    unit = torch.where(norms > 0, norms, 1.0)
    solution = torch.zeros_like(target)
    remainder = target
    left = max_iterations
    residual = norms / unit
    # Float32 gains about six digits before its recurrence drifts; then start afresh.
    goal = max(rtol, 1e-6) if scaled.dtype == torch.float32 else rtol
    while not (residual <= rtol).all():
        bound = unit * (goal / 2 * residual).clamp_min(rtol / 2)
        start = (remainder / relative.sqrt()).to(scaled.dtype)
        steps, update = _iterate(inner, relative, start, bound, left)
        solution += update / (relative.sqrt() * largest)
        remainder = _product(row_start, columns, weights, solution)
        remainder.addcmul_(diagonal[:, None], solution, value=-1).add_(target)
        previous, residual = residual, _both_norms(remainder, relative) / unit
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
    return solution, torch.where(sound, residual[0], torch.nan).to(rhs.dtype)


def _product(row_start: Tensor, columns: Tensor, weights: Tensor, x: Tensor) -> Tensor:
    """Return W x in the dtype of `x`, a block of rows at a time: W is not copied to it whole."""
    product = torch.empty_like(x)
    for at in range(0, len(x), _ROWS):
        start = row_start[at : at + _ROWS + 1]
        inside = slice(int(start[0]), int(start[-1]))
        size = (len(start) - 1, len(x))
        values = weights[inside].to(x.dtype)
        block = torch.sparse_csr_tensor(
            start - start[0], columns[inside], values, size, check_invariants=False
        )
        product[at : at + _ROWS] = block @ x
    return product


def _both_norms(columns: Tensor, diagonal: Tensor) -> Tensor:
    """Return the columns' norms as they are, and with rows over the diagonal: in U's own unit."""
    return torch.stack([columns.norm(dim=0), (columns / diagonal).norm(dim=0)])


def _column_norms(columns: Tensor) -> Tensor:
    """Return the columns' norms, without overflow or underflow of squares."""
    if not len(columns):
        return columns.new_zeros(columns.shape[1])
    largest = columns.abs().amax(0)
    return largest * (columns / torch.where(largest > 0, largest, 1.0)).norm(dim=0)


@torch.library.register_fake("weft::conjugate_gradient")
def _(row_start, columns, weights, scaled, diagonal, rhs, rtol, max_iterations):
    return torch.empty_like(rhs), rhs.new_empty(rhs.shape[1])


def _iterate(
    adjacency: Tensor, diagonal: Tensor, rhs: Tensor, bound: Tensor, max_iterations: int
) -> tuple[int, Tensor]:
    """Solve (I - adjacency) u = rhs by the recurrence from zero; overwrites `rhs`.

    The system is D^-1/2 A D^-1/2: plain steps on it are Jacobi-preconditioned steps on A. With r
    the residual here, D^1/2 r is that of A; a column is finished when its norm and that of
    D^-1/2 r are at most the two rows of `bound`.
    """
    tiny = torch.finfo(adjacency.dtype).tiny
    residual = rhs  # changed in place below
    measures = torch.cat([diagonal, 1 / diagonal], dim=1).T.to(residual.dtype)
    bound = bound.to(residual.dtype).square()
    solution = torch.zeros_like(residual)
    direction, previous = torch.zeros_like(residual), torch.full_like(bound[0], torch.inf)
    for step in range(max_iterations):
        squares = residual.square()
        # Zero columns, and finished ones, take a step of length zero: 0 / 0 would spoil them.
        product = torch.where((measures @ squares > bound).any(0), squares.sum(0), 0.0)
        if not product.any():
            return step, solution
        direction = torch.addcmul(residual, direction, product / previous.clamp_min(tiny))
        image = torch.addmm(direction, adjacency, direction, alpha=-1)
        length = product / (direction * image).sum(0).clamp_min(tiny)
        solution.addcmul_(direction, length)
        residual.addcmul_(image, length, value=-1)
        previous = product
    return max_iterations, solution
