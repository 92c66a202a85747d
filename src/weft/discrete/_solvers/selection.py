"""Select and order: the k cheapest, and ranks. Pure torch, on the costs' device."""

from dataclasses import dataclass
from numbers import Integral

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weft.discrete._solver import Solver


class FixedSum(Solver):
    """A set whose members all have the same sum, over the entries that belong to the instance."""

    def equalities(self, item: torch.Size) -> Float[Tensor, "1 n"]:
        """Return one row of ones."""
        return torch.ones(1, item.numel(), dtype=torch.float64)

    def project(
        self, costs: Float[Tensor, "*b n"], mask: Bool[Tensor, "*b n"] | None = None
    ) -> Float[Tensor, "*b n"]:
        """Subtract the mean."""
        if mask is None:
            return costs - costs.mean(-1, keepdim=True)
        costs = costs.where(mask, 0.0)
        mean = costs.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp_min(1)
        return (costs - mean).where(mask, 0.0)


@dataclass(frozen=True)
class TopK(FixedSum):
    """The k entries of least cost: exactly k ones, also where costs tie; then the first win.

    With `maximize=True` in `solve_discrete` the k largest scores; `TopK()` is then the argmax.

    Args:
        k: how many; each instance needs at least as many entries.
    """

    k: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.k, Integral) or self.k < 1:
            raise ValueError(f"`k` must be a whole number, 1 or more, got {self.k}: select some.")

    def solve(self, costs: Tensor, mask: Tensor | None) -> Tensor:
        """Take all below the k-th cost, and of those at it the first that are needed."""
        entries = torch.tensor([costs.shape[1]]) if mask is None else mask.sum(1)
        if (entries < self.k).any():
            which = int((entries < self.k).nonzero()[0])
            raise ValueError(
                f"`costs` must have at least k = {self.k} entries, got {int(entries[which])} in "
                f"instance {which} of the batch: lower k, or look at the mask."
            )
        if mask is not None:
            costs = costs.masked_fill(~mask, torch.inf)
        kth = costs.topk(self.k, largest=False).values[:, -1:]
        below, at = costs < kth, costs == kth
        return below | (at & (at.cumsum(1) <= self.k - below.sum(1, keepdim=True)))


@dataclass(frozen=True)
class Ranking(FixedSum):
    """Ranks 1 ... n: the largest cost gets rank 1, and of equal ones the first.

    Over all permutations y of 1 ... n these ranks minimise <costs, y>. Costs that are scores thus
    rank the best first, without `maximize`. With a mask, the ranks of its entries.

    Source: Rolínek et al., CVPR 2020; Sahoo et al., arXiv 2205.15213, eq. 24.
    """

    def solve(self, costs: Tensor, mask: Tensor | None) -> Tensor:
        """Sort once, and write the ranks where their entries came from."""
        if mask is not None:
            costs = costs.masked_fill(~mask, -torch.inf)
        order = costs.sort(dim=1, stable=True, descending=True).indices
        ranks = torch.arange(1, costs.shape[1] + 1, device=costs.device).expand_as(order)
        ranks = torch.empty_like(order).scatter_(1, order, ranks)
        return ranks if mask is None else ranks.where(mask, 0)
