"""Assign rows to columns, each to one, by SciPy's shortest augmenting paths."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from weft.discrete._solver import Solver
from weft.discrete._solvers.host import for_each


@dataclass(frozen=True)
class Assignment(Solver):
    """The cheapest one-to-one assignment: costs (rows, columns), a solution of zeros and ones.

    Where there are more columns than rows, each row gets one and some columns stay free; and the
    other way round. With a mask, a row or column without any entry is absent; other entries
    outside the mask are forbidden pairs. Ties fall as SciPy breaks them, the same each time.

    Source: Crouse, IEEE Trans. Aerosp. Electron. Syst. 2016, as scipy.optimize.
        linear_sum_assignment.
    """

    item_dims = 2

    def solve(self, costs: Tensor, mask: Tensor | None) -> Tensor:
        """Solve each instance in double precision, on all threads."""
        matrices = costs.double().numpy(force=True)
        solution = np.zeros(costs.shape, dtype=bool)
        if mask is None:
            pairs = (len(matrices), min(costs.shape[1:]))
            rows, columns = np.empty(pairs, dtype=int), np.empty(pairs, dtype=int)

            def one(instance: int) -> None:
                rows[instance], columns[instance] = linear_sum_assignment(matrices[instance])

            for_each(one, len(matrices))
            solution[np.arange(len(matrices))[:, None], rows, columns] = True
        else:
            allowed = mask.numpy(force=True)
            matrices = np.where(allowed, matrices, np.inf)

            def one(instance: int) -> None:
                rows = allowed[instance].any(1).nonzero()[0]
                columns = allowed[instance].any(0).nonzero()[0]
                try:
                    i, j = linear_sum_assignment(matrices[instance][np.ix_(rows, columns)])
                except ValueError as error:
                    raise ValueError(
                        f"`mask` must allow an assignment, and instance {instance} of the batch "
                        f"has none for its {len(rows)} rows and {len(columns)} columns: allow "
                        "more pairs."
                    ) from error
                solution[instance, rows[i], columns[j]] = True

            for_each(one, len(matrices))
        return torch.from_numpy(solution)

    def equalities(self, item: torch.Size) -> Float[Tensor, "r n"]:
        """Return a row for each row and each column of the side, or sides, assigned in full."""
        rows, columns = item
        each_row = torch.eye(rows, dtype=torch.float64).repeat_interleave(columns, 1)
        each_column = torch.eye(columns, dtype=torch.float64).repeat(1, rows)
        if rows == columns:
            return torch.cat([each_row, each_column])
        return each_row if rows < columns else each_column

    def project(
        self, costs: Float[Tensor, "*b r c"], mask: Bool[Tensor, "*b r c"] | None = None
    ) -> Float[Tensor, "*b r c"]:
        """Subtract the means of rows, then of columns: double centring, where both are assigned.

        A longer side, of which some stay free, keeps its means. Where a mask forbids single pairs,
        the means overlap, and a system for all potentials at once is solved instead.
        """
        if mask is None:
            rows, columns = costs.shape[-2:]
            if rows != columns:
                return costs - costs.mean(-1 if rows < columns else -2, keepdim=True)
            row, column = costs.mean(-1, keepdim=True), costs.mean(-2, keepdim=True)
            return (costs - row).sub_(column - row.mean(-2, keepdim=True))
        mask = mask.expand(costs.shape)
        costs = costs.where(mask, 0.0)
        rows, columns = mask.any(-1, keepdim=True), mask.any(-2, keepdim=True)
        num_rows, num_columns = rows.sum(-2, keepdim=True), columns.sum(-1, keepdim=True)
        by_row, by_column = mask & (num_rows <= num_columns), mask & (num_columns <= num_rows)
        if not torch.equal(mask, rows & columns):
            return (costs - _potentials(costs, by_row, by_column)).where(mask, 0.0)
        for dim, pairs in ((-1, by_row), (-2, by_column)):
            mean = costs.sum(dim, keepdim=True) / mask.sum(dim, keepdim=True).clamp_min(1)
            costs = costs - mean.where(pairs, 0.0)
        return costs


def _potentials(costs: Tensor, by_row: Tensor, by_column: Tensor) -> Tensor:
    """Return A^+ A costs: A has a row for each row of `by_row` and each column of `by_column`."""
    split = costs.shape[-2]
    gram = torch.diag_embed(torch.cat([by_row.sum(-1), by_column.sum(-2)], -1)).to(costs)
    gram[..., :split, split:] = (by_row & by_column).to(costs)
    gram[..., split:, :split] = gram[..., :split, split:].mT
    sums = torch.cat([costs.where(by_row, 0.0).sum(-1), costs.where(by_column, 0.0).sum(-2)], -1)
    potentials = torch.linalg.pinv(gram, hermitian=True) @ sums[..., None]
    rows, columns = potentials[..., :split, :], potentials[..., split:, :].mT
    return rows.where(by_row, 0.0) + columns.where(by_column, 0.0)
