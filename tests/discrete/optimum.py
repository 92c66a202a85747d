"""What the tests of solvers share: random instances, and the optimum by enumeration."""

import torch
from torch import Tensor
from torch.testing import assert_close

from weft.discrete import Solver


def costs_of(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normal costs, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def assert_optimal(solver: Solver, costs: Tensor, members: Tensor) -> None:
    """The solution of each instance is one of `members`, (count, n), and none costs less."""
    item = costs.shape[costs.ndim - solver.item_dims :]
    solution = solver(costs).reshape(-1, item.numel())
    members = members.to(costs)
    assert (solution[:, None] == members).all(2).any(1).all(), "not in the set"
    flat = costs.reshape(solution.shape)
    assert_close((flat * solution).sum(1), (flat @ members.T).amin(1))


def assert_projects(solver: Solver, costs: Tensor, mask: Tensor | None = None) -> None:
    """`project` is I - A^+ A of the rows of `equalities`, and changes no solution."""
    item = costs.shape[costs.ndim - solver.item_dims :]
    projected = solver.project(costs, mask)
    rows = solver.equalities(item)
    assert rows is not None
    own = torch.ones_like(costs) if mask is None else mask.expand(costs.shape).to(costs)
    for instance, inside, got in zip(
        costs.reshape(-1, item.numel()),
        own.reshape(-1, item.numel()),
        projected.reshape(-1, item.numel()),
        strict=True,
    ):
        own_rows = rows.to(costs) * inside
        kept = torch.diag(inside) - torch.linalg.pinv(own_rows) @ own_rows
        assert_close(got, kept @ instance)
    if not solver.nonnegative:
        assert torch.equal(solver(projected, mask), solver(costs, mask))


def assert_ragged_is_a_loop(solver: Solver, costs: Tensor, mask: Tensor) -> None:
    """A masked batch has the solutions of its instances alone; `mask` is a block per instance."""
    solution = solver(costs, mask)
    assert not solution[~mask].any()
    for instance, inside, got in zip(costs, mask, solution, strict=True):
        block = instance[inside]
        if solver.item_dims == 2:
            block = block.view(int(inside.any(1).sum()), int(inside.any(0).sum()))
        assert torch.equal(got[inside], solver(block).flatten())


def assert_keeps_shape_and_dtype(solver: Solver, *item: int) -> None:
    """Any batch shape, none and empty ones too, in both precisions and with the same solution."""
    costs = costs_of(0, 2, 3, *item).abs()
    solution = solver(costs)
    assert solution.shape == costs.shape
    assert solution.dtype == torch.float64
    single = solver(costs.float())
    assert single.dtype == torch.float32
    assert torch.equal(single.double(), solution)
    assert torch.equal(solver(costs[1, 2]), solution[1, 2])
    assert solver(costs[:0]).shape == (0, 3, *item)
    assert not solver(costs.requires_grad_()).requires_grad
