"""What a solver is: costs in, a minimiser of <costs, y> over a finite set out, for a whole batch.

A solver knows its set: which equalities hold on it, whether costs must not be negative. How it is
differentiated is a rule's business. Knows tensors; autograd is off here.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weft._check import check_finite


class Solver(ABC):
    """Minimises <costs, y> over a finite set Y, one call for a whole batch.

    A subclass writes `solve`, and states what it knows of Y in the attributes, in `equalities` and
    in `project`. Make it a frozen dataclass, so that two solvers with the same settings are equal.
    """

    item_dims: int = 1
    """Number of trailing dimensions of `costs` that make one instance: 2 for a grid or a matrix."""
    nonnegative: bool = False
    """Whether costs must be zero or more. What a rule moves below zero is then set to zero."""
    exact: bool = True
    """False for a heuristic, whose solution need not be a minimiser."""

    @abstractmethod
    def solve(
        self, costs: Float[Tensor, "b *item"], mask: Bool[Tensor, "b *item"] | None
    ) -> Tensor:
        """Return the solutions, (b, *item), in any dtype and on any device.

        Called with plain tensors, no gradient, at least one instance, finite costs (of the right
        sign if `nonnegative`). `mask` is true where an entry belongs to its instance: the rest
        must be zero in the solution, and their costs, set to zero before, mean nothing. Ties are
        broken the same way each time. A ValueError for an infeasible instance names its place in
        the batch.
        """

    def equalities(self, item: torch.Size) -> Float[Tensor, "r n"] | None:
        """Return the rows a with <a, y> the same for all y in Y, or None where none are known.

        Over the flattened entries of one instance of shape `item`, float64; rows may depend on
        one another. With a mask, the rows are those of its entries.
        """
        del item
        return None

    def project(
        self, costs: Float[Tensor, "*b"], mask: Bool[Tensor, "*b"] | None = None
    ) -> Float[Tensor, "*b"]:
        """Project orthogonally on the directions that can change the solution: (I - A^+ A) costs.

        By default from the rows A of `equalities`; the costs themselves where there are none. A
        subclass may write a closed form. Linear, symmetric and differentiable; entries outside
        `mask` become zero.

        Source: for one row, Sahoo et al., arXiv 2205.15213, eq. 12; for several, the part that is
            removed, <A^+ A costs, y> = <costs, A^+ b>, is the same for all y.
        """
        costs = costs if mask is None else costs.where(mask, 0.0)
        item = costs.shape[costs.ndim - self.item_dims :]
        rows = self.equalities(item)
        if rows is None:
            return costs
        flat = costs.reshape(-1, item.numel())
        if mask is None:
            basis = _row_space(self, item).to(flat)
            return (flat - (flat @ basis.T) @ basis).reshape(costs.shape)
        own = rows.to(flat) * mask.expand(costs.shape).reshape(-1, 1, item.numel())
        removed = torch.linalg.pinv(own) @ (own @ flat[..., None])
        return (flat - removed[..., 0]).reshape(costs.shape)

    def __call__(
        self, costs: Float[Tensor, "*b"], mask: Bool[Tensor, "*b"] | None = None
    ) -> Float[Tensor, "*b"]:
        """Solve every instance; not differentiable (see `solve_discrete`).

        Args:
            costs: (*batch, *item), with any number of batch dimensions, also none.
            mask: which entries belong to their instance; a shape that expands to that of `costs`.
                All others are zero in the solution, and their costs are not read.

        Returns:
            The solutions, with the shape, dtype and device of `costs`.

        Raises:
            TypeError: `costs` is not a floating-point tensor, or `mask` not a boolean one.
            ValueError: too few dimensions, NaN, infinity, a forbidden sign, an infeasible
                instance, or a solver that returns another shape.
        """
        check_costs(costs, mask, self.item_dims)
        item = costs.shape[costs.ndim - self.item_dims :]
        if not costs.numel():
            return torch.zeros_like(costs)
        with torch.no_grad():
            flat = costs.detach().reshape(-1, *item)
            if mask is not None:
                mask = mask.expand(costs.shape).reshape(flat.shape)
                flat = flat.where(mask, 0.0)
            check_finite("costs", flat)
            if self.nonnegative:
                _check_sign(flat)
            solution = self.solve(flat, mask)
        if not isinstance(solution, Tensor) or solution.shape != flat.shape:
            came = tuple(solution.shape) if isinstance(solution, Tensor) else type(solution)
            raise ValueError(
                f"a solver must return a tensor of the shape it was given, {tuple(flat.shape)}, "
                f"got {came}: one entry of the solution for each cost."
            )
        return solution.to(costs).reshape(costs.shape)


class FunctionSolver(Solver):
    """A solver from a function of your own.

    Args:
        function: maps costs (b, *item) to solutions of the same shape. It is called as
            `function(costs)`, or `function(costs, mask)` where a mask is given.
        item_dims: number of trailing dimensions of one instance.
        equalities: rows a, (r, *item), with <a, y> the same for all solutions, for instances of
            that shape; None where none are known.
        nonnegative: whether `function` needs costs of zero or more.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        *,
        item_dims: int = 1,
        equalities: Float[Tensor, "r *item"] | None = None,
        nonnegative: bool = False,
    ) -> None:
        if not callable(function):
            raise TypeError(
                f"a solver must be a function or a `Solver`, got {type(function).__name__}: "
                "pass a function that maps costs to solutions."
            )
        if equalities is not None and equalities.ndim != item_dims + 1:
            raise ValueError(
                f"`equalities` must have {item_dims + 1} axes (rows, item), "
                f"got shape {tuple(equalities.shape)}: one row for each equality."
            )
        self.function = function
        self.item_dims = item_dims
        self.nonnegative = nonnegative
        self._rows = None if equalities is None else equalities.detach().double()

    def __repr__(self) -> str:
        return f"FunctionSolver({getattr(self.function, '__name__', self.function)})"

    def solve(self, costs: Tensor, mask: Tensor | None) -> Tensor:
        """Call the function."""
        return self.function(costs) if mask is None else self.function(costs, mask)

    def equalities(self, item: torch.Size) -> Tensor | None:
        """Return the rows given, for the shape they were given for."""
        if self._rows is None:
            return None
        if self._rows.shape[1:] != item:
            raise ValueError(
                f"`costs` must have instances of shape {tuple(self._rows.shape[1:])}, for which "
                f"`equalities` were given, got {tuple(item)}: make a solver for each shape."
            )
        return self._rows.flatten(1)


def as_solver(solver: Solver | Callable[..., Tensor]) -> Solver:
    """Return a solver as it is, and a bare function as a solver of vectors."""
    return solver if isinstance(solver, Solver) else FunctionSolver(solver)


def check_costs(costs: Tensor, mask: Tensor | None, item_dims: int) -> None:
    """Refuse costs and masks of a wrong type or shape; their values are not looked at."""
    if not isinstance(costs, Tensor) or not costs.is_floating_point():
        came = costs.dtype if isinstance(costs, Tensor) else type(costs).__name__
        raise TypeError(f"`costs` must be a floating-point tensor, got {came}: call .float().")
    if costs.ndim < item_dims or 0 in costs.shape[costs.ndim - item_dims :]:
        raise ValueError(
            f"`costs` must end in {item_dims} non-empty dimensions for one instance, got shape "
            f"{tuple(costs.shape)}: pass (*batch, *item)."
        )
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        came = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"`mask` must be a boolean mask, got {came}: compare, do not cast.")
    try:
        fits = torch.broadcast_shapes(mask.shape, costs.shape) == costs.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"`mask` must expand to the shape of `costs`, {tuple(costs.shape)}, got "
            f"{tuple(mask.shape)}: true where an entry belongs to its instance."
        )


def _check_sign(costs: Tensor) -> None:
    low = costs.flatten(1).amin(1)
    if (low < 0).any():
        which = int((low < 0).nonzero()[0])
        raise ValueError(
            f"`costs` must not be negative for this solver, got {low[which].item():g} in instance "
            f"{which} of the batch: make them so by softplus or .clamp_min(0); a shift would "
            "change the solution."
        )


@lru_cache(maxsize=32)
def _row_space(solver: Solver, item: torch.Size) -> Tensor:
    """Return an orthonormal basis of the rows of `equalities`, (rank, n)."""
    rows = solver.equalities(item)
    assert rows is not None
    _, sizes, basis = torch.linalg.svd(rows, full_matrices=False)
    floor = max(rows.shape) * torch.finfo(rows.dtype).eps * sizes.amax()
    return basis[sizes > floor]
