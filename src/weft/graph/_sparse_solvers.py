"""Two more linear solvers by libraries: a sparse factorisation, and algebraic multigrid.

Both solve in float64 on the CPU, one column after the other, and cannot be compiled. Neither is a
default: docs/large_graphs.md says where they win.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import splu
from torch import Tensor

from weft._check import ConvergenceError
from weft.graph._edges import csr_pattern, node_sums

_REFINEMENTS = 3
"""How often multigrid may start afresh on what is left: once, but for weights decades apart."""


@dataclass(frozen=True)
class SparseLU:
    """Sparse factorisation by SuperLU, which SciPy brings: exact, nothing to choose.

    For graphs that can be cut by few nodes (grids, roads, chains), where the factor stays sparse
    and many right-hand sides share it. On neighbour graphs of features it fills up.
    """

    def factor(self, edges: Tensor, weights: Tensor, diagonal: Tensor, num_graphs: int) -> list:
        """Return SuperLU's factor."""
        del num_graphs  # blocks are just sparsity here
        matrix = _matrix(edges, weights, diagonal)
        try:
            # Positive definite: the diagonal is a safe pivot, and the order may be symmetric.
            factor = splu(
                matrix.tocsc(),
                permc_spec="MMD_AT_PLUS_A",
                diag_pivot_thresh=0.0,
                options={"SymmetricMode": True},
            )
        except RuntimeError as error:
            raise ValueError(
                f"the system must be positive definite, but SuperLU says: {error}: a component "
                "without label or decay; label one of its nodes or pass a larger `tau`."
            ) from None
        return [factor, matrix]

    def solve(self, factor: list[Any], rhs: Tensor) -> tuple[Tensor, Tensor]:
        """Solve by two triangular systems."""
        lu, matrix = factor
        columns = rhs.double().cpu().numpy()
        solution = lu.solve(columns)
        residual = _relative_residual(matrix, solution, columns)
        if not (residual < 1e-6).all():
            raise ValueError(
                "the system must be positive definite in float64, but its factorisation leaves a "
                f"relative residual of {residual.max():.1e}: pass a larger `tau`."
            )
        return torch.from_numpy(solution).to(rhs), rhs.new_zeros(0)


@dataclass(frozen=True)
class AlgebraicMultigrid:
    """Conjugate gradients preconditioned by smoothed aggregation, of the PyAMG library.

    Needs the extra `weft[amg]`. The number of steps hardly grows with the graph, but each costs
    several times one of `ConjugateGradient`: it can win where those need hundreds, on large graphs
    of low dimension with few labels.

    Args:
        rtol: relative residual of each column, certified; `None` takes 1e-6 for float32, 1e-10
            for float64.
        max_iterations: steps per column before `ConvergenceError`.
    """

    rtol: float | None = None
    max_iterations: int = 200

    def __post_init__(self) -> None:
        if self.rtol is not None and not 0 < self.rtol < 1:
            raise ValueError(f"`rtol` must lie between 0 and 1, got {self.rtol}.")
        if self.max_iterations < 1:
            raise ValueError(f"`max_iterations` must be positive, got {self.max_iterations}.")

    def factor(self, edges: Tensor, weights: Tensor, diagonal: Tensor, num_graphs: int) -> list:
        """Return the hierarchy of coarser systems."""
        del num_graphs
        try:
            import pyamg
        except ImportError as error:
            raise ImportError(
                "AlgebraicMultigrid needs the PyAMG library, which is not installed: "
                "pip install 'weft[amg]', or use ConjugateGradient()."
            ) from error
        matrix = _matrix(edges, weights, diagonal)
        if not (matrix.diagonal() > 0).all():
            node = int((matrix.diagonal() <= 0).argmax())
            raise ValueError(
                "the system must be positive definite, but its diagonal is not positive at node "
                f"{node}: give the node an edge, decay or a label."
            )
        # Damping by local row sums: an estimate of the spectrum would draw from NumPy's generator.
        smooth = ("jacobi", {"weighting": "local"})
        hierarchy = pyamg.smoothed_aggregation_solver(matrix, smooth=smooth, max_coarse=300)
        return [hierarchy, matrix]

    def solve(self, factor: list[Any], rhs: Tensor) -> tuple[Tensor, Tensor]:
        """Iterate on each column until it meets the tolerance."""
        hierarchy, matrix = factor
        rtol = self.rtol or (1e-6 if rhs.dtype == torch.float32 else 1e-10)
        columns = rhs.double().cpu().numpy()
        solution = np.zeros_like(columns)
        residual = _relative_residual(matrix, solution, columns)
        for _ in range(_REFINEMENTS):
            remainder = columns - matrix @ solution
            for column in np.flatnonzero(~(residual <= rtol).all(0)):
                # Half the tolerance: the recurrence's residual drifts from the true one.
                solution[:, column] += hierarchy.solve(
                    remainder[:, column], tol=rtol / 2, maxiter=self.max_iterations, accel="cg"
                )
            residual = _relative_residual(matrix, solution, columns)
            if (residual[0] > rtol).any():  # stalled: a fresh start would not help
                break
        if not (residual <= rtol).all():
            raise ConvergenceError(
                f"algebraic multigrid must reach a relative residual of {rtol:g}, got "
                f"{residual.max():.2e} after {self.max_iterations} steps: raise `rtol` or "
                "`max_iterations`, or use ConjugateGradient()."
            )
        return torch.from_numpy(solution).to(rhs), torch.from_numpy(residual[0]).to(rhs)


def _matrix(edges: Tensor, weights: Tensor, diagonal: Tensor) -> Any:
    """Return L(weights) + diag(diagonal) as a SciPy matrix in float64."""
    num_nodes = len(diagonal)
    row_start, columns, edge_of = (part.cpu().numpy() for part in csr_pattern(edges, num_nodes))
    values = -weights.double().cpu().numpy()[edge_of]
    total = (node_sums(weights.double(), edges, num_nodes) + diagonal.double()).cpu().numpy()
    # A csr_matrix, not an array: PyAMG knows the former only.
    off = sparse.csr_matrix((values, columns, row_start), (num_nodes, num_nodes))
    return (off + sparse.diags(total)).tocsr()


def _relative_residual(matrix: Any, solution: np.ndarray, rhs: np.ndarray) -> np.ndarray:
    """Return each column's, as it is and with rows over the diagonal, as `ConjugateGradient`."""
    remainder = rhs - matrix @ solution
    scale = np.stack([np.ones(len(rhs)), 1 / matrix.diagonal()])[:, :, None]
    norm = np.linalg.norm(scale * rhs, axis=1)
    return np.linalg.norm(scale * remainder, axis=1) / np.where(norm > 0, norm, 1.0)
