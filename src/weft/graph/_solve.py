"""Solve the graph's linear systems, and differentiate the solution: the one adjoint.

Every gradient through a linear system passes through `solve_laplacian`: the adjoint is written
here and nowhere else. Knows tensors and solvers; knows no modules.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weft._check import check_finite, check_floating, values_of
from weft.graph._edges import edge_inner, laplacian_product, refuse_nested_forward_mode
from weft.graph._graph import check_edges
from weft.graph._linear_solvers import LinearSolver, default_solver


@dataclass
class SolveLog:
    """What the solves of one or more calls cost and reached; pass one in to have it filled.

    Args:
        factorizations: number of matrices factored (or preconditioned).
        residuals: largest relative residual of each solve in order, forward and adjoint, in
            float64 arithmetic; zero for direct solvers.
    """

    factorizations: int = 0
    residuals: list[float] = field(default_factory=list)


def solve_laplacian(
    weights: Float[Tensor, " e"],
    diagonal: Float[Tensor, " n"],
    rhs: Float[Tensor, "n c"],
    edges: Int[Tensor, "2 e"],
    *,
    num_graphs: int = 1,
    solver: LinearSolver | None = None,
    log: SolveLog | None = None,
) -> Float[Tensor, "n c"]:
    """Solve (L(weights) + diag(diagonal)) U = rhs, where L is the graph's Laplacian.

    Differentiable to any order in `weights`, `diagonal` and `rhs`, in reverse mode, with forward
    mode once anywhere among them, and under `torch.func.vmap`; one factorisation serves all
    derivatives. Under `torch.compile` once, in reverse mode, without a graph break.

    Args:
        weights: edge weights, non-negative, no unit.
        diagonal: added to the Laplacian's diagonal, in the unit of `weights`; the sum must be
            positive definite, so each component needs a positive entry.
        rhs: one right-hand side per column.
        edges: node pairs i < j in lexicographic order, each undirected edge once.
        num_graphs: how many graphs of equal size lie side by side.
        solver: `Cholesky()` or `ConjugateGradient()`; by default the faster for the size.
        log: filled with the number of factorisations and the residuals, adjoint included.

    Returns:
        U, with the shape, dtype and device of `rhs`.

    Raises:
        TypeError: not all float32 or all float64.
        ValueError: shapes do not fit, NaN or infinity, or a matrix not positive definite.
        ConvergenceError: an iterative solver stopped short of its tolerance.

    Source: the adjoint is derived in docs/adjoint.md.
    """
    check_floating("weights", weights, "e")
    check_floating("diagonal", diagonal, "n")
    check_floating("rhs", rhs, "n c")
    if edges.shape != (2, len(weights)) or len(diagonal) != len(rhs):
        raise ValueError(
            "`edges`, `weights`, `diagonal` and `rhs` must describe one system, got shapes "
            f"{tuple(edges.shape)}, {tuple(weights.shape)}, {tuple(diagonal.shape)} and "
            f"{tuple(rhs.shape)}: (2, e), (e,), (n,) and (n, c) are needed."
        )
    if not weights.dtype == diagonal.dtype == rhs.dtype or rhs.dtype.itemsize < 4:
        raise TypeError(
            "`weights`, `diagonal` and `rhs` must all be float32 or all be float64, got "
            f"{weights.dtype}, {diagonal.dtype} and {rhs.dtype}: cast them alike."
        )
    if not torch.compiler.is_compiling():  # compiled code cannot branch on values
        check_edges(edges, len(diagonal), num_graphs)
    return solve_system(
        weights, diagonal, rhs, edges, num_graphs=num_graphs, solver=solver, log=log
    )


def solve_system(
    weights: Tensor,
    diagonal: Tensor,
    rhs: Tensor,
    edges: Tensor,
    *,
    num_graphs: int = 1,
    solver: LinearSolver | None = None,
    log: SolveLog | None = None,
) -> Tensor:
    """Do what `solve_laplacian` does, for arguments that were checked before."""
    solver = solver or default_solver(len(diagonal), num_graphs)
    if torch.compiler.is_compiling():
        factor = solver.factor(edges, weights.detach(), diagonal.detach(), num_graphs)
        solution = _CompiledSolve.apply(weights, diagonal, rhs, edges, solver, *factor)
    else:
        # The system outlives the transform of torch.func that the edges may be wrapped for.
        system = _System(values_of(edges), num_graphs, solver, log or SolveLog())
        solution = _Solve.apply(weights, diagonal, rhs, system)
    return solution  # pyright: ignore[reportReturnType]


@dataclass
class _System:
    """One matrix and its factor, made at the first solve and shared by every derivative."""

    edges: Tensor
    num_graphs: int
    solver: LinearSolver
    log: SolveLog
    factor: list[Tensor] | None = None
    stacks: "dict[int, _System]" = field(default_factory=dict)

    def solve(self, weights: Tensor, diagonal: Tensor, rhs: Tensor) -> Tensor:
        if self.factor is None:
            # Here, not at the entrance: under functorch only the innermost tensors have values.
            for name, tensor in (("weights", weights), ("diagonal", diagonal), ("rhs", rhs)):
                check_finite(name, tensor)
            self.factor = self.solver.factor(self.edges, weights, diagonal, self.num_graphs)
            self.log.factorizations += 1
        solution, residual = self.solver.solve(self.factor, rhs.contiguous())
        self.log.residuals.append(residual.max().item() if residual.numel() else 0.0)
        return solution

    def stack(self, count: int, num_nodes: int) -> "_System":
        """Return the system of `count` copies of the pattern, block by block, made once."""
        if count not in self.stacks:
            shift = num_nodes * torch.arange(count, device=self.edges.device)
            edges = (self.edges[:, None] + shift[:, None]).reshape(2, -1)
            self.stacks[count] = _System(edges, count * self.num_graphs, self.solver, self.log)
        return self.stacks[count]


class _Solve(torch.autograd.Function):
    """U = A^-1 B with A = L(w) + diag t symmetric.

    With G the incoming gradient and V = A^-1 G: dB = V, and since A is linear in w and t,
        dw_ij = -<u_i - u_j, v_i - v_j>,   dt_i = -<u_i, v_i>.
    Forward mode: A dU = dB - dA U = dB - L(dw) U - dt U. Both right-hand sides go through
    `_Solve` itself, so derivatives of every order are exact.
    """

    @staticmethod
    def forward(weights: Tensor, diagonal: Tensor, rhs: Tensor, system: _System) -> Tensor:
        return system.solve(weights, diagonal, rhs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        weights, diagonal, _, ctx.system = inputs
        ctx.save_for_backward(weights, diagonal, output)
        ctx.save_for_forward(weights, diagonal, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weights, diagonal, u = ctx.saved_tensors
        v = _Solve.apply(weights, diagonal, grad, ctx.system)
        return -edge_inner(u, v, ctx.system.edges), -(u * v).sum(-1), v, None

    @staticmethod
    def jvp(
        ctx: Any, dweights: Tensor | None, ddiagonal: Tensor | None, drhs: Tensor | None, _: None
    ) -> Tensor:
        refuse_nested_forward_mode()
        weights, diagonal, u = ctx.saved_tensors
        rhs = torch.zeros_like(u) if drhs is None else drhs
        if dweights is not None:
            rhs = rhs - laplacian_product(dweights, u, ctx.system.edges)
        if ddiagonal is not None:
            rhs = rhs - ddiagonal[:, None] * u
        return _Solve.apply(weights, diagonal, rhs, ctx.system)  # pyright: ignore

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        weights: Tensor,
        diagonal: Tensor,
        rhs: Tensor,
        system: _System,
    ) -> Any:
        count = info.batch_size
        if in_dims[0] is None and in_dims[1] is None:
            # One matrix, many right-hand sides: they become columns.
            columns = rhs.movedim(in_dims[2], 1)  # (n, batch, c)
            solution: Any = _Solve.apply(weights, diagonal, columns.flatten(1), system)
            return solution.view(columns.shape), 1
        # Many matrices on one pattern: blocks of one larger system.
        weights, diagonal, rhs = (
            part.movedim(dim, 0) if dim is not None else part.expand(count, *part.shape)
            for part, dim in zip((weights, diagonal, rhs), in_dims[:3], strict=True)
        )
        stacked = system.stack(count, diagonal.shape[1])
        flat = _Solve.apply(weights.flatten(), diagonal.flatten(), rhs.flatten(0, 1), stacked)
        return flat.view(rhs.shape), 0  # pyright: ignore


class _CompiledSolve(torch.autograd.Function):
    """`_Solve` for compiled code, which cannot trace a custom forward mode or a held factor."""

    @staticmethod
    def forward(
        weights: Tensor,
        diagonal: Tensor,
        rhs: Tensor,
        edges: Tensor,
        solver: LinearSolver,
        *factor: Tensor,
    ) -> Tensor:
        return solver.solve(list(factor), rhs.contiguous())[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, _, _, edges, ctx.solver, *factor = inputs
        ctx.save_for_backward(output, edges, *factor)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        u, edges, *factor = ctx.saved_tensors
        v = ctx.solver.solve(factor, grad.contiguous())[0]
        unused = [None] * (2 + len(factor))
        return -edge_inner(u, v, edges), -(u * v).sum(-1), v, *unused
